"""Queries times keys times values by torch's SDPA; with sinks, which it does not know, by plain products."""

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

from mfa_train.attention.kernels.behind import Behind
from mfa_train.attention.kernels.decoding import decoding_attention

SCORES_AT_ONCE = {"cpu": 2**21, "cuda": 2**28}
"""Of a block of queries with sinks: what a CPU's caches hold, what keeps a GPU busy."""
MASK_AT_ONCE = 2**25
"""Values of a mask, a byte each, of which a long stretch of a longer sequence would need thousands of millions."""


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor | None = None) -> Tensor:
    """Causal attention of q (batch, queries, heads, qk_dim) over k and v (batch, keys, kv_heads, …) with keys >=
    queries, the last query at the last key: (batch, queries, heads, v_dim). Query heads share key-value heads in equal
    groups. `sinks` (heads,) are scores that take part in every softmax without a value."""
    if sinks is not None:
        block = max(1, SCORES_AT_ONCE.get(q.device.type, 2**28) // (len(q) * q.shape[2] * k.shape[1]))
        return _in_blocks(q, k, v, block, lambda q, k, v: decoding_attention((q,), (k,), v, scale, sinks=sinks))
    queries, keys = q.shape[1], k.shape[1]
    mask: Tensor | None = None
    if 1 < queries < keys:
        if q.device.type == "cpu" and q.shape[3] == v.shape[3]:
            return Behind.apply(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale).transpose(1, 2)
        if q.is_cuda and _fused_at_the_end(q, k, v):
            biases = importlib.import_module("torch.nn.attention.bias")  # late: it brings torch's compiler
            mask = biases.causal_lower_right(queries, keys)  # a name for it: none is made, and none kept
        elif (block := max(1, MASK_AT_ONCE // keys)) < queries:
            return _in_blocks(q, k, v, block, lambda q, k, v: sdpa_attention(q, k, v, scale))
        else:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=queries > 1 and mask is None,
        scale=scale,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def _fused_at_the_end(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether one of CUDA's kernels does without a mask where fewer queries than keys end with them."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    asked = SDPAParams(q, k, v, None, 0.0, False, q.shape[1] != k.shape[1])  # as CausalBias asks
    return can_use_flash_attention(asked) or can_use_efficient_attention(asked)


def _in_blocks(
    q: Tensor, k: Tensor, v: Tensor, block: int, attention: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """`attention` of a block of queries at a time over the keys up to its end."""
    queries, keys = q.shape[1], k.shape[1]
    outputs = []
    for start in range(0, queries, block):
        part = q[:, start : start + block]
        seen = keys - queries + start + part.shape[1]
        outputs.append(attention(part, k[:, :seen], v[:, :seen]))
    return torch.cat(outputs, dim=1)
