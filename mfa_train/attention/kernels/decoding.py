"""Attention of the newest tokens over a cache's entries: compiled, or in torch's operations (plain.py).

On a CPU, where no gradient is asked for, a compiled kernel (decoding.cpp) reads float32 and bfloat16 entries once and
keeps no scores: torch's products of so few rows reach a quarter of the machine. What it gives up: its results differ
from torch's by rounding, and by the number of threads. Short caches, other types and devices, and the meta device on
which FLOPs are counted, go through torch's.
"""

from collections.abc import Sequence

from torch import Tensor

from mfa_train.attention.kernels import compiled, plain
from mfa_train.attention.rope import Positions


def decoding_attention(
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Tensor,
    scale: float,
    *,
    lengths: Tensor | None = None,
    sinks: Tensor | None = None,
    turned: Positions | None = None,
    factors: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What `plain.decoding_attention` says, compiled where that serves."""
    if compiled.serves((*q, sinks) if sinks is not None else q, (*k, v, *(factors or ()))):
        return compiled.attention(q, k, v, scale, lengths, sinks, turned, factors)
    return plain.decoding_attention(q, k, v, scale, lengths=lengths, sinks=sinks, turned=turned, factors=factors)
