"""Which tokens of a sequence a rank has where `parallel.context` = C ranks share it, and what all of them make of their
tokens, gathered in the sequence's order.

The sequence is cut into 2C equal stretches; the rank in place r has stretches r and 2C − 1 − r, so that causal
attention is the same work for all of them. "Local" tokens are a rank's two stretches, one behind the other.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfa_train.parallel.groups import ContextGroup


def stretches(place: int, size: int, tokens: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Begin and end of the two that the rank in `place` of `size` has, of a sequence of so many `tokens`."""
    width = tokens // (2 * size)
    first, second = place * width, (2 * size - 1 - place) * width
    return (first, first + width), (second, second + width)


def local(x: Tensor, group: ContextGroup, dim: int = 1) -> Tensor:
    """Of x, whose `dim` goes over all tokens, this rank's."""
    if group.size == 1:
        return x
    parts = [x.narrow(dim, begin, end - begin) for begin, end in stretches(group.rank, group.size, x.shape[dim])]
    return torch.cat(parts, dim=dim)


class Gathering:
    """Of one layer's values in one pass: this rank's tokens' on their way to all ranks of the group, and, in the
    backward pass, all tokens' gradients to the rank that has them, summed in float32.

    Every rank of the group calls `leave`, then `arrive`; what is computed between the two goes on beside the exchange,
    there and back.
    """

    def __init__(self, group: ContextGroup):
        self.group = group
        self.under_way: tuple[Any, Tensor, Tensor]
        """Work, what it reads until then, and what it fills."""

    def leave(self, x: Tensor) -> Tensor:
        """Local tokens' x (batch, local tokens, dims) set out. What it gives may be read behind `arrive` alone."""
        return _Leave.apply(x, self)

    def arrive(self, gathered: Tensor) -> Tensor:
        """What `leave` gave, of all tokens in the sequence's order: (batch, tokens, dims)."""
        return _Arrive.apply(gathered, self)

    def begin_there(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        into = x.new_empty((self.group.size, *x.shape))
        work = dist.all_gather_single(into.flatten(0, 1), x, group=self.group.handle, async_op=True)
        self.under_way = work, x, into
        return into

    def begin_back(self, grad: Tensor) -> None:
        by_rank = _by_rank(grad, self.group.size)
        into = torch.empty_like(by_rank[0])
        work = dist.reduce_scatter_single(into, by_rank.flatten(0, 1), group=self.group.handle, async_op=True)
        self.under_way = work, by_rank, into

    def end(self) -> Tensor:
        """What has arrived."""
        work, _, into = self.under_way
        self.group.waits(work.wait)
        del self.under_way
        return into


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering, ctx.dtype = gathering, x.dtype
        return gathering.begin_there(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        return ctx.gathering.end().to(ctx.dtype), None


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gathered: Tensor, gathering: Gathering) -> Tensor:
        ctx.gathering, ctx.like = gathering, (gathered.shape, gathered.dtype)
        return in_order(gathering.end())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        ctx.gathering.begin_back(grad)
        shape, dtype = ctx.like
        # Of the shape that autograd asks for; `_Leave` gives what comes of it.
        return torch.zeros((), dtype=dtype, device=grad.device).expand(shape), None


def in_order(by_rank: Tensor) -> Tensor:
    """(ranks, batch, local tokens, …) as (batch, tokens, …), in the sequence's order."""
    first, second = by_rank.chunk(2, dim=2)
    return torch.cat([*first, *reversed(second.unbind())], dim=1)


def rank_by_rank(x: Tensor, ranks: int) -> Tensor:
    """x (batch, tokens, …), in the sequence's order, with the ranks' local tokens one rank behind the other."""
    parts = x.chunk(2 * ranks, dim=1)
    return torch.cat([part for r in range(ranks) for part in (parts[r], parts[2 * ranks - 1 - r])], dim=1)


def _by_rank(x: Tensor, ranks: int) -> Tensor:
    """`in_order` undone, in float32 at least."""
    parts, (batch, tokens, *rest) = x.chunk(2 * ranks, dim=1), x.shape
    found = x.new_empty((ranks, batch, tokens // ranks, *rest), dtype=torch.promote_types(x.dtype, torch.float32))
    for rank, (first, second) in enumerate(part.chunk(2, dim=1) for part in found):
        first.copy_(parts[rank])
        second.copy_(parts[2 * ranks - 1 - rank])
    return found
