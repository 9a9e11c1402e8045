"""Attention of the newest tokens over a cache's entries, as they are: no key or value is made for a head of its own.

Scores are the sum of products of parts (a latent and a rotated key, say); a part of keys that is one head is shared by
all. The last query is the last of its row's tokens, and what stands behind a row's tokens is never read into a result.

Torch's own operations, on every device, in every type, with gradients.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mfa_train.attention.rope import Positions, rotate


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
    """q[i] (batch, queries, heads, dim_i), k[i] (batch, tokens, kv_heads or 1, dim_i) and v (batch, tokens, kv_heads,
    v_dim) to (batch, queries, heads, v_dim). Query heads share key-value heads in equal groups.

    A row has `lengths` (batch,) tokens, or all. `sinks` (heads,) are scores without a value. With `turned` the first
    part of the keys is rotated as it is read. With `factors` (batch, tokens, heads, rank) of the keys and of the
    values, k, of one part, and v have ranks for heads: a head's key or value is the sum of them, each times its factor.
    """
    if turned is not None:
        k = (rotate(k[0], turned), *k[1:])
    if factors is not None:
        scores = _of_ranks(q[0], k[0], factors[0])
    else:
        first, *others = (_scores(queries, keys) for queries, keys in zip(q, k, strict=True))
        scores = sum(others, first)
    weights = softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale, lengths, sinks).to(v.dtype)
    return _weighted(weights, v) if factors is None else _weighted_ranks(weights, v, factors[1])


def softmax(scores: Tensor, lengths: Tensor | None, sinks: Tensor | None) -> Tensor:
    """Of scores (batch, heads, queries, tokens) over the tokens that each query may see, and over its head's sink."""
    queries, tokens = scores.shape[2:]
    if lengths is not None or queries > 1:
        ends = torch.full((1,), tokens, device=scores.device) if lengths is None else lengths
        behind = torch.arange(queries - 1, -1, -1, device=scores.device)
        seen = ends.view(-1, 1, 1, 1) - behind.view(1, 1, -1, 1)
        scores = scores.masked_fill(torch.arange(tokens, device=scores.device) >= seen, -torch.inf)
    if sinks is None:
        return scores.softmax(dim=-1)
    sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return torch.cat((scores, sink), dim=-1).softmax(dim=-1)[..., :-1]


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """(batch, heads, queries, tokens)"""
    queries, heads, kv_heads = q.shape[1], q.shape[2], k.shape[2]
    rows = q.transpose(1, 2).reshape(len(q), kv_heads, -1, q.shape[3])
    return _exact(rows, k.permute(0, 2, 3, 1)).view(len(q), heads, queries, -1)


def _exact(rows: Tensor, keys: Tensor) -> Tensor:
    """rows @ keys (batch, kv_heads, …): of 16-bit values in float32, as scores must not be rounded before a softmax."""
    if rows.dtype not in (torch.bfloat16, torch.float16):
        return rows @ keys
    if not rows.is_cuda or (torch.is_grad_enabled() and (rows.requires_grad or keys.requires_grad)):
        return rows.float() @ keys.float()  # torch has no gradient of a product in another type
    products = torch.bmm(rows.flatten(0, 1), keys.flatten(0, 1), out_dtype=torch.float32)
    return products.unflatten(0, rows.shape[:2])


def _weighted(weights: Tensor, v: Tensor) -> Tensor:
    """(batch, queries, heads, v_dim)"""
    batch, heads, queries, tokens = weights.shape
    out = weights.reshape(batch, v.shape[2], -1, tokens) @ v.transpose(1, 2)
    return out.reshape(batch, heads, queries, v.shape[3]).transpose(1, 2)


def _of_ranks(q: Tensor, k: Tensor, factor: Tensor) -> Tensor:
    """(batch, heads, queries, tokens): a query meets the ranks' keys, and its head's factors weigh what comes out."""
    rows = q.transpose(1, 2).flatten(1, 2).unsqueeze(1)
    keys = k.permute(0, 2, 3, 1)
    products = _exact(rows.expand(-1, keys.shape[1], -1, -1), keys).unflatten(2, (q.shape[2], q.shape[1]))
    return (products * _of_tokens(factor)).sum(dim=1)


def _weighted_ranks(weights: Tensor, v: Tensor, factor: Tensor) -> Tensor:
    """(batch, queries, heads, v_dim)"""
    heads, queries = weights.shape[1:3]
    of_ranks = (weights.unsqueeze(1) * _of_tokens(factor)).flatten(2, 3)
    return (of_ranks @ v.transpose(1, 2)).sum(dim=1).unflatten(1, (heads, queries)).transpose(1, 2)


def _of_tokens(factor: Tensor) -> Tensor:
    """(batch, tokens, heads, rank) as (batch, rank, heads, 1, tokens)"""
    return factor.permute(0, 3, 2, 1).unsqueeze(3)
