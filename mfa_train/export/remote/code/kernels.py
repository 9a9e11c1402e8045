"""torch's SDPA in the place of the choice among kernels."""

from torch import Tensor

from mfa_train.attention.documents import Documents
from mfa_train.attention.kernels.sdpa import sdpa_attention


def choose_kernel(kernel: str, head_dim: int, sinks: bool = False) -> str:
    """torch's SDPA, whatever the training ran on."""
    return "sdpa"


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    kernel: str,
    documents: Documents | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """`sdpa_attention`, within each of `documents` where there are any."""
    if documents is None or documents.whole_windows:
        return sdpa_attention(q, k, v, scale, sinks)
    return documents.each(lambda q, k, v: sdpa_attention(q, k, v, scale, sinks), q, k, v)
