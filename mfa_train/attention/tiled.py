"""Causal attention in blocks of queries, each one batched matrix product: for 16-bit training on a CPU.

There torch's SDPA runs at a sixth of the matrix-product peak, forward and backward; this takes about half its time. A
block of queries meets the keys up to its own end, so only the scores on the diagonal are computed and masked. Query
heads that share a key head become rows of one product: the fewer key heads, the larger the products. Scores and softmax
are float32, as in SDPA.

What it gives up: the softmax weights of a layer are kept for the backward pass, batch·heads·tokens² bytes in 16 bit.
"""

import torch
from torch import Tensor


@torch.compiler.disable  # torch.compile unrolls the blocks into slower code
def tiled_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """q (batch, tokens, heads, qk_dim), k and v (batch, tokens, kv_heads, …) to (batch, tokens, heads, v_dim)."""
    return _TiledAttention.apply(q, k, v, scale)


class _TiledAttention(torch.autograd.Function):
    """softmax(scale·QKᵀ)V of FlashAttention's equations (arXiv 2205.14135, section 3.1 and appendix B.2), P kept."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        tokens, kv_heads = q.shape[1], k.shape[2]
        group = q.shape[2] // kv_heads
        q, k, v = (_as_rows(x, kv_heads) for x in (q, k, v))
        wide_q, wide_k = q.float().mul_(scale), k.float().transpose(1, 2)
        outputs, weights = [], []
        for start, end in _blocks(tokens, group):
            scores = wide_q[:, start * group : end * group] @ wide_k[:, :, :end]
            future = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).triu(1)
            scores[:, :, start:].masked_fill_(future.repeat_interleave(group, dim=0), -torch.inf)
            weights.append(scores.softmax(dim=-1).to(q.dtype))
            outputs.append(weights[-1] @ v[:, :end])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.kv_heads, ctx.group, ctx.tokens = scale, kv_heads, group, tokens
        return _as_heads(torch.cat(outputs, dim=1), kv_heads, tokens)

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, *weights = ctx.saved_tensors
        grad = _as_rows(grad, ctx.kv_heads)
        grad_q = []
        grad_k, grad_v = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for p, (start, end) in zip(weights, _blocks(ctx.tokens, ctx.group)):
            rows = slice(start * ctx.group, end * ctx.group)
            grad_v[:, :end] += p.transpose(1, 2) @ grad[:, rows]
            grad_p = grad[:, rows] @ v[:, :end].transpose(1, 2)
            grad_scores = torch.ops.aten._softmax_backward_data(grad_p, p, -1, p.dtype)
            grad_q.append(grad_scores @ k[:, :end])
            grad_k[:, :end] += grad_scores.transpose(1, 2) @ q[:, rows]
        return (_as_heads(torch.cat(grad_q, dim=1).mul_(ctx.scale), ctx.kv_heads, ctx.tokens),
                _as_heads(grad_k.mul_(ctx.scale).to(k.dtype), ctx.kv_heads, ctx.tokens),
                _as_heads(grad_v.to(v.dtype), ctx.kv_heads, ctx.tokens), None)


def _blocks(tokens: int, group: int) -> list[tuple[int, int]]:
    """First and last token (exclusive) of each block: at least 128 rows of the product, at least 64 tokens."""
    length = max(64, 128 // group)
    return [(start, min(start + length, tokens)) for start in range(0, tokens, length)]


def _as_rows(x: Tensor, kv_heads: int) -> Tensor:
    """(batch, tokens, heads, dim) as (batch·kv_heads, tokens·group, dim): a token's heads of one group follow each other."""
    return x.unflatten(2, (kv_heads, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _as_heads(rows: Tensor, kv_heads: int, tokens: int) -> Tensor:
    """`_as_rows` undone."""
    return rows.unflatten(0, (-1, kv_heads)).unflatten(2, (tokens, -1)).transpose(1, 2).flatten(2, 3)
