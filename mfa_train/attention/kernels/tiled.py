"""Causal attention in blocks of queries, each one batched matrix product: for 16-bit training on a CPU.

There torch's SDPA runs at a sixth of the matrix-product peak, forward and backward; this takes about half its time. A
block of queries meets the keys up to its own end, so only the scores on the diagonal are computed and masked. Query
heads that share a key head become rows of one product: the fewer key heads, the larger the products. Scores and softmax
are float32, as in SDPA.

A sink is one more key in front of all, of zeros, whose score is written over: no query is without it.

What it gives up: the softmax weights of a layer are kept for the backward pass, batch·heads·tokens² bytes in 16 bit.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


# torch.compile unrolls the blocks into slower code. (torch.compiler.disable would import the compiler here: a second.)
@torch._disable_dynamo
def tiled_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor | None = None) -> Tensor:
    """q (batch, tokens, heads, qk_dim), k and v (batch, tokens, kv_heads, …) to (batch, tokens, heads, v_dim). `sinks`
    (heads,) are scores without a value."""
    return _TiledAttention.apply(q, k, v, scale, sinks)


class _TiledAttention(torch.autograd.Function):
    """softmax(scale·QKᵀ)V of FlashAttention's equations (arXiv 2205.14135, section 3.1 and appendix B.2), P kept."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor | None) -> Tensor:
        tokens, kv_heads = q.shape[1], k.shape[2]
        group, first = q.shape[2] // kv_heads, 0 if sinks is None else 1
        q, k, v = (_as_rows(x, kv_heads) for x in (q, k, v))
        k, v = (F.pad(x, (0, 0, first, 0)) if first else x for x in (k, v))
        wide_q, wide_k = q.float(), k.float().transpose(1, 2)
        blocks = _blocks(tokens, group)
        mask = torch.full((blocks[0][1],) * 2, -torch.inf, device=q.device).triu(1).repeat_interleave(group, dim=0)
        scores_of, probabilities_of = (_scratch(q, blocks[0][1] * group, k.shape[1], torch.float32) for _ in range(2))
        output, weights = q.new_empty(*q.shape[:2], v.shape[2]), []
        with _exact_products_of_16_bit_values():
            for start, end in blocks:
                rows, length, seen = slice(start * group, end * group), (end - start) * group, first + end
                scores = torch.bmm(wide_q[:, rows], wide_k[:, :, :seen], out=scores_of(length, seen)).mul_(scale)
                scores[:, :, first + start :] += mask[:length, : end - start]
                if sinks is not None:
                    scores[:, :, 0].view(-1, kv_heads, end - start, group)[:] = sinks.view(kv_heads, 1, group)
                probabilities = torch.softmax(scores, dim=-1, out=probabilities_of(length, seen))
                weights.append(probabilities.to(q.dtype))
                torch.bmm(weights[-1], v[:, :seen], out=output[:, rows])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale, ctx.kv_heads, ctx.group, ctx.tokens = scale, kv_heads, group, tokens
        ctx.sinks = None if sinks is None else sinks.dtype
        return _as_heads(output, kv_heads, tokens)

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, *weights = ctx.saved_tensors
        grad = _as_rows(grad, ctx.kv_heads)
        blocks, first = _blocks(ctx.tokens, ctx.group), k.shape[1] - ctx.tokens
        grad_q, grad_sinks = torch.empty_like(q), None
        if first:
            grad_sinks = torch.zeros(ctx.kv_heads, ctx.group, dtype=torch.float32, device=q.device)
        grad_k, grad_v = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        grad_p_of, grad_scores_of = (_scratch(q, blocks[0][1] * ctx.group, k.shape[1], q.dtype) for _ in range(2))
        for p, (start, end) in zip(weights, blocks):
            rows, length, seen = slice(start * ctx.group, end * ctx.group), (end - start) * ctx.group, first + end
            grad_p = torch.bmm(grad[:, rows], v[:, :seen].transpose(1, 2), out=grad_p_of(length, seen))
            grad_scores = torch.ops.aten._softmax_backward_data.out(
                grad_p, p, -1, p.dtype, grad_input=grad_scores_of(length, seen)
            )
            torch.bmm(grad_scores, k[:, :seen], out=grad_q[:, rows])
            grad_v[:, :seen] += torch.bmm(p.transpose(1, 2), grad[:, rows])
            grad_k[:, :seen] += torch.bmm(grad_scores.transpose(1, 2), q[:, rows])
            if grad_sinks is not None:
                of_sinks = grad_scores[:, :, 0].reshape(-1, ctx.kv_heads, end - start, ctx.group)
                grad_sinks += of_sinks.sum(dim=(0, 2), dtype=torch.float32)
        return (
            _as_heads(grad_q.mul_(ctx.scale), ctx.kv_heads, ctx.tokens),
            _as_heads(grad_k[:, first:].mul_(ctx.scale).to(k.dtype), ctx.kv_heads, ctx.tokens),
            _as_heads(grad_v[:, first:].to(v.dtype), ctx.kv_heads, ctx.tokens),
            None,
            None if grad_sinks is None else grad_sinks.flatten().to(ctx.sinks),
        )


@contextlib.contextmanager
def _exact_products_of_16_bit_values() -> Iterator[None]:
    """float32 matrix products whose factors hold bfloat16 values run as bfloat16 ones with float32 sums, twice as fast.

    The factors lose nothing, the results are float32 as before: what is asked of oneDNN here is only not to look for
    bits that are not there. Only matrix products of `tiled_attention` run meanwhile.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch puts it there when it is imported
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _scratch(rows: Tensor, most: int, keys: int, dtype: torch.dtype) -> Callable[[int, int], Tensor]:
    """One buffer for every block's (batch·kv_heads, length, keys) in turn, `most` rows at most: fresh memory is slower
    than arithmetic."""
    buffer = torch.empty(rows.shape[0] * most * keys, dtype=dtype, device=rows.device)

    def view(length: int, seen: int) -> Tensor:
        shape = (rows.shape[0], length, seen)
        return buffer[: math.prod(shape)].view(shape)

    return view


def _blocks(tokens: int, group: int) -> list[tuple[int, int]]:
    """First and last token (exclusive) of each block: at least 128 rows of the product, at least 64 tokens."""
    length = max(64, 128 // group)
    return [(start, min(start + length, tokens)) for start in range(0, tokens, length)]


def _as_rows(x: Tensor, kv_heads: int) -> Tensor:
    """(batch, tokens, heads, dim) as (batch·kv_heads, tokens·group, dim): a token's heads of one group follow each
    other."""
    return x.unflatten(2, (kv_heads, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def _as_heads(rows: Tensor, kv_heads: int, tokens: int) -> Tensor:
    """`_as_rows` undone."""
    return rows.unflatten(0, (-1, kv_heads)).unflatten(2, (tokens, -1)).transpose(1, 2).flatten(2, 3)
