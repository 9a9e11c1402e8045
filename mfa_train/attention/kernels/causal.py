"""Queries times keys times values in training and of prompts: torch's SDPA everywhere, flash-attn 2 on CUDA, tiles on
a CPU.

Kernels differ in speed and rounding only. All are causal with the last query at the last key, so that a query block
behind a longer cache sees all of it.
"""

import importlib.util

import torch
import torch.nn.functional as F
from torch import Tensor

from mfa_train.attention.documents import Within
from mfa_train.attention.kernels.sdpa import sdpa_attention
from mfa_train.attention.kernels.tiled import tiled_attention
from mfa_train.errors import ConfigError

FLASH_MAX_HEAD_DIM = 256
SINK_DIMS = 8
"""By how many dimensions sinks widen a head for flash-attn: one is used, it wants a multiple of eight."""
LEAST_SINK = -1e4
"""No softmax can tell a lower sink from none at all, and -inf times a key's zero would be NaN."""
MULTIPROCESSORS = 132
"""Of an H100 (NVIDIA's data sheet), for which flash-attn's scratch is planned."""
TILED_MAX_TOKENS = 2048
"""Beyond it the softmax weights that `tiled` keeps for the backward pass outgrow what it saves."""


def choose_kernel(kernel: str, head_dim: int, sinks: bool = False) -> str:
    """The kernel that `attention.kernel` means here. Raises ConfigError for `flash` where it cannot run."""
    if kernel in ("sdpa", "tiled"):
        return kernel
    missing = _flash_missing(head_dim + SINK_DIMS * sinks)
    if kernel == "flash" and missing:
        raise ConfigError(f"attention.kernel=flash needs {missing}: type attention.kernel=sdpa, or auto")
    if not missing:
        return "flash"
    return "sdpa" if torch.cuda.is_available() else "tiled"


def planned_kernel(
    device_type: str,
    kernel: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: int,
    keys: int,
    sinks: Tensor | None = None,
) -> str:
    """How `attention.kernel` would run with so many tokens' queries over so many keys on another machine's devices
    (cuda | cpu), everything installed there.

    tiled, flash, fused (one of SDPA's own kernels) or math (all scores at once). What SDPA fuses is torch 2.13's.
    Raises ConfigError where flash was asked for and cannot be.
    """
    half, widest = q.dtype == torch.bfloat16, max(q.shape[-1], v.shape[-1]) + (0 if sinks is None else SINK_DIMS)
    if kernel == "flash" and (device_type != "cuda" or widest > FLASH_MAX_HEAD_DIM):
        missing = (
            "a CUDA device"
            if device_type != "cuda"
            else f"heads of at most {FLASH_MAX_HEAD_DIM} dimensions, not {widest}"
        )
        raise ConfigError(f"attention.kernel=flash needs {missing}: type attention.kernel=auto")
    if device_type == "cpu":
        if kernel in ("auto", "tiled") and half and queries == keys <= TILED_MAX_TOKENS:
            return "tiled"
        return "fused" if q.shape[-1] == v.shape[-1] and sinks is None else "math"
    if kernel in ("auto", "flash") and half and widest <= FLASH_MAX_HEAD_DIM:
        return "flash"
    if sinks is not None:
        return "math"
    shared = q.shape[2] != k.shape[2]  # of SDPA's kernels only flash's takes shared key heads
    return "math" if shared and not (half and widest <= FLASH_MAX_HEAD_DIM and q.shape[-1] == v.shape[-1]) else "fused"


def _flash_missing(head_dim: int) -> str | None:
    if not torch.cuda.is_available():
        return "a CUDA device, and none is visible"
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn, which is not installed (docs/gpu.md)"
    if head_dim > FLASH_MAX_HEAD_DIM:
        return f"heads of at most {FLASH_MAX_HEAD_DIM} dimensions, not {head_dim}"
    return None


def causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    kernel: str,
    documents: Within | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention. q (batch, queries, heads, qk_dim), k and v (batch, keys, kv_heads, …) with keys >= queries.

    Returns (batch, queries, heads, v_dim). Query heads share key-value heads in equal groups. With `documents`
    (`Pieces` where there are more keys than queries) no query sees a key of another document. `sinks` (heads,) are
    scores that take part in every softmax without a value.
    """
    if documents is not None:
        return _attend_within(documents, q, k, v, scale, kernel, sinks)
    # flash-attn takes 16-bit values alone, and tiles gain with them alone: float32 runs go through SDPA.
    if kernel == "tiled" and q.dtype == torch.bfloat16 and q.shape[1] == k.shape[1] <= TILED_MAX_TOKENS:
        return tiled_attention(q, k, v, scale, sinks)
    if kernel == "flash" and q.dtype == torch.bfloat16:
        return _flash(*(q, k, v) if sinks is None else _with_sinks(q, k, v, scale, sinks), scale)
    if kernel == "fused" and sinks is None:
        return _Fused.apply(q, k, v, q.shape[2] != k.shape[2])  # of SDPA's kernels flash's alone shares key heads
    return sdpa_attention(q, k, v, scale, sinks)


@torch._disable_dynamo  # documents differ at every step, and each graph would be of use once
def _attend_within(
    documents: Within, q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: str, sinks: Tensor | None
) -> Tensor:
    if documents.whole_windows:
        return causal_attention(q, k, v, scale, kernel, sinks=sinks)
    if kernel == "flash" and q.dtype == torch.bfloat16 and sinks is None:
        return _flash(q, k, v, scale, documents)
    return documents.each(lambda q, k, v: causal_attention(q, k, v, scale, kernel, sinks=sinks), q, k, v)


def _with_sinks(q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sinks as one more key in front of all, which every query sees: its score is the query's first new dimension, in
    which the other keys are zero, and its value is zero."""
    scores = (sinks.clamp(min=LEAST_SINK) / scale).to(q.dtype).view(1, 1, -1, 1).expand(*q.shape[:3], 1)
    q = torch.cat((q, F.pad(scores, (0, SINK_DIMS - 1))), dim=-1)
    k = F.pad(k, (0, SINK_DIMS, 0, 0, 1, 0))
    k[:, 0, :, -SINK_DIMS] = 1.0
    return q, k, F.pad(v, (0, 0, 0, 0, 1, 0))


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, documents: Within | None = None) -> Tensor:
    # Version 2 wants one head_dim for q, k and v: zeros behind the shorter change no score and no value.
    dim = max(q.shape[-1], v.shape[-1])
    padded = [F.pad(x, (0, dim - x.shape[-1])) for x in (q, k, v)]
    if q.is_meta:
        return _Fused.apply(*padded, True)[..., : v.shape[-1]]
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    if documents is None:
        out = flash_attn_func(*padded, softmax_scale=scale, causal=True, deterministic=True)
    else:
        packed = documents.packed(*padded)
        out = flash_attn_varlen_func(*packed, softmax_scale=scale, causal=True, deterministic=True)
        out = out.unflatten(0, q.shape[:2])
    return out[..., : v.shape[-1]]


class _Fused(torch.autograd.Function):
    """On the meta device: what flash-attn and the fused SDPA keep for the backward pass, what they allocate in it and
    give back, without a value."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, flash: bool) -> Tensor:
        # One operation, as theirs are: its results are what selective checkpointing keeps.
        out, log_sum, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), None, True
        )
        out, ctx.flash = out.transpose(1, 2), flash
        ctx.save_for_backward(q, k, v, out, log_sum)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, *_ = ctx.saved_tensors
        scratch = _flash_scratch(q, k) if ctx.flash else ()
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        del scratch
        return *grads, None


def _flash_scratch(q: Tensor, k: Tensor) -> list[Tensor]:
    """What flash-attn 2 allocates in its backward pass beside the gradients, as `mha_bwd` in its flash_api.cpp does:
    sums for the queries' gradient in float32, as many as keep the multiprocessors busy where they are added in a fixed
    order (`deterministic`), and where heads share keys a gradient of every head's keys and values."""
    batch, tokens, heads, dim = q.shape
    rounded, wide = -(-tokens // 128) * 128, -(-dim // 32) * 32 if dim <= 192 else FLASH_MAX_HEAD_DIM
    sums = -(-MULTIPROCESSORS // (batch * heads))
    scratch = [
        q.new_empty(sums, batch, rounded, heads, wide, dtype=torch.float32),
        q.new_empty(batch, heads, rounded, dtype=torch.float32),
    ]
    if heads != k.shape[2]:
        scratch += [q.new_empty(batch, k.shape[1], heads, dim) for _ in range(2)]
    return scratch
