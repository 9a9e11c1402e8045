"""Rows on their way to the ranks that have their experts, and back.

A `Journey` sends rows that are sorted by expert to the ranks of an expert group and gives them there sorted by the
experts of the rank; its way back undoes that. Each leg has two ends, `leave` and `arrive`, and what is computed between
them goes on beside it where the backend sends asynchronously (NCCL on a stream of its own, gloo in threads). The
backward pass goes through the same ends the other way round, so what was computed between them is differentiated beside
it too.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfa_train.parallel.groups import ExpertGroup


class Leg:
    """One way, there and, of gradients, back: `sent` rows to each rank of the group, `received` from each."""

    def __init__(self, sent: list[int], received: list[int], group: ExpertGroup):
        self.sent, self.received, self.group = sent, received, group
        self.under_way: list[tuple[Any, Tensor, Tensor]] = []
        """Work, what it reads until then, and what it fills."""

    def begin(self, tensors: tuple[Tensor, ...], back: bool) -> tuple[Tensor, ...]:
        """Tensors of the same rows that arrive: not there before `end`."""
        sent, received = (self.received, self.sent) if back else (self.sent, self.received)
        for tensor in tensors:
            tensor = tensor.contiguous()
            into = tensor.new_empty((sum(received), *tensor.shape[1:]))
            work = dist.all_to_all_single(into, tensor, received, sent, group=self.group.handle, async_op=True)
            self.under_way.append((work, tensor, into))
        return tuple(into for _, _, into in self.under_way)

    def end(self) -> tuple[Tensor, ...]:
        """What has arrived."""
        for work, _, _ in self.under_way:
            self.group.waits(work.wait)
        arrived = tuple(into for _, _, into in self.under_way)
        self.under_way = []
        return arrived


class Leave(torch.autograd.Function):
    """Tensors of the same rows set out; what it gives may be read behind `Arrive` alone."""

    @staticmethod
    def forward(ctx, leg: Leg, *tensors: Tensor):
        ctx.leg = leg
        return leg.begin(tensors, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        return None, *ctx.leg.end()


class Arrive(torch.autograd.Function):
    """The other end."""

    @staticmethod
    def forward(ctx, leg: Leg, *tensors: Tensor):
        ctx.leg = leg
        leg.end()
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        ctx.leg.begin(grads, back=True)
        return None, *grads  # of the shape that autograd asks for; `Leave` gives what comes of them


class Reorder(torch.autograd.Function):
    """Rows in another `order`, which `inverse` undoes: gathers alone, there and back."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class Journey:
    """Of one layer's rows in one pass. `load` (experts,): how many rows this rank has for each expert of the layer.
    Every rank of the group begins one, and waits for the others and for the device here: how much is sent must be known
    on the host."""

    def __init__(self, load: Tensor, group: ExpertGroup):
        mine = load.view(group.size, -1)
        theirs = torch.empty_like(mine)
        group.waits(lambda: dist.all_to_all_single(theirs, mine.contiguous(), group=group.handle))
        sent, received = torch.stack((mine.sum(dim=1), theirs.sum(dim=1))).tolist()
        self.there, self.back = Leg(sent, received, group), Leg(received, sent, group)
        self.load = theirs.sum(dim=0)
        """Of each of this rank's experts, rows of the whole group."""
        expert = torch.arange(mine.shape[1], device=load.device).repeat(group.size)
        expert = expert.repeat_interleave(theirs.flatten(), output_size=sum(received))
        self.order, self.inverse = sorted_by(expert)

    def leave(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`tensors` (rows, …), sorted by expert, set out."""
        return Leave.apply(self.there, *tensors)

    def arrive(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What `leave` gave, sorted by this rank's experts."""
        return tuple(Reorder.apply(one, self.order, self.inverse) for one in Arrive.apply(self.there, *tensors))

    def leave_back(self, rows: Tensor) -> Tensor:
        """What the experts made of what arrived sets out for where it came from."""
        (rows,) = Leave.apply(self.back, Reorder.apply(rows, self.inverse, self.order))
        return rows

    def arrive_back(self, rows: Tensor) -> Tensor:
        """What `leave_back` gave, sorted as the rows that `leave` took."""
        (rows,) = Arrive.apply(self.back, rows)
        return rows


def sorted_by(experts: Tensor) -> tuple[Tensor, Tensor]:
    """The order of `experts` (choices,) in which each expert's stand together, and what undoes it."""
    order = experts.argsort(stable=True)
    return order, torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
