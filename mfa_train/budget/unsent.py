"""A pass of one of the ranks that share sequences, without the others: for plans, on torch's meta device.

By entries it is the pass that trains, whose collectives send nothing. By heads what DeepSpeed's Ulysses
(`deepspeed.sequence.layer`) allocates stands here, since it asks for its own communication.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfa_train.attention.shared import SharedSequence
from mfa_train.attention.shared_heads import SharedHeads
from mfa_train.parallel.groups import ContextGroup


class _Nowhere:
    """In the place of a process group: whatever is asked of it, there is nothing to wait for."""

    def __getattr__(self, name: str) -> Callable[..., "_Nowhere"]:
        return lambda *_: self

    def wait(self) -> None:
        """At once."""


def shared_sequence(way: str, ranks: int, tokens: int) -> SharedSequence:
    """What a pass is given; way: entries | heads. It is that of the first rank, which has the last stretch and attends
    over all keys at once."""
    kind = SharedSequence if way == "entries" else _ByHeads
    return kind(ContextGroup(0, ranks, _Nowhere()), tokens)


class _ByHeads(SharedHeads):
    """As in training, but for the exchange."""

    def ulysses(self, q: Tensor, k: Tensor, v: Tensor, _: int, **how: Any) -> Tensor:
        size = self.group.size
        q, k, v = (_Swapped.apply(x, size, True) for x in (q, k, v))
        return _Swapped.apply(self.of_share(q, k, v, **how), size, False)


class _Swapped(torch.autograd.Function):
    """Its tokens' heads (batch, local tokens, heads, dim) as all tokens of its heads (batch, tokens, heads / ranks,
    dim), or back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int, to_heads: bool) -> Tensor:
        ctx.size, ctx.to_heads = size, to_heads
        return _swapped(x, size, to_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _swapped(grads[0], ctx.size, not ctx.to_heads), None, None


def _swapped(x: Tensor, size: int, to_heads: bool) -> Tensor:
    """Copies as `single_all_to_all` makes them."""
    batch, tokens, heads, dim = x.shape
    if to_heads:
        sent = x.view(batch, tokens, size, heads // size, dim).permute(2, 0, 1, 3, 4).contiguous()
        arrived = torch.empty_like(sent).permute(1, 0, 2, 3, 4).contiguous()
        return arrived.reshape(batch, size * tokens, heads // size, dim)
    sent = x.reshape(batch, size, tokens // size, heads, dim).permute(1, 0, 2, 3, 4).contiguous()
    arrived = torch.empty_like(sent).permute(1, 2, 0, 3, 4).contiguous()
    return arrived.reshape(batch, tokens // size, size * heads, dim)
