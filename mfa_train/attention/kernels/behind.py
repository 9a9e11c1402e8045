"""Queries at the end of more keys, on a CPU: the keys before them all and their own as two calls of torch's fused
kernel, whose outputs are merged by their log-sums (as in Ring Attention, arXiv 2310.01889, section 3).

SDPA would take a mask of queries × keys, keep one for each layer's backward pass, and multiply what it hides.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Behind(torch.autograd.Function):
    """Causal attention of q (batch, heads, queries, dim) over k and v (batch, kv_heads, keys, dim), keys > queries, the
    last query at the last key: (batch, heads, queries, dim)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        before = k.shape[2] - q.shape[2]
        out, log_sum = _forward(q, k[:, :, :before], v[:, :, :before], scale=scale)
        own, own_log_sum = _forward(q, k[:, :, before:], v[:, :, before:], is_causal=True, scale=scale)
        both = torch.logaddexp(log_sum, own_log_sum)
        weight = (own_log_sum - both).exp().unsqueeze(-1)  # float32 where values have 16 bits
        out = torch.lerp(out.to(weight.dtype), own.to(weight.dtype), weight).to(q.dtype)
        ctx.save_for_backward(q, k, v, out, both)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum = ctx.saved_tensors
        before = k.shape[2] - q.shape[2]

        def of(part: slice, causal: bool) -> tuple[Tensor, ...]:
            return _backward(grads[0], q, k[:, :, part], v[:, :, part], out, log_sum, 0.0, causal, scale=ctx.scale)

        grad_q, *waiting = of(slice(before), False)
        whole = []
        while waiting:  # each goes as it has been copied
            whole.append(F.pad(waiting.pop(0), (0, 0, 0, q.shape[2])))
        own_grad_q, *own = of(slice(before, None), True)
        for grad, of_own in zip(whole, own):
            grad[:, :, before:] = of_own
        return grad_q + own_grad_q, *whole, None
