"""The experts' matrix products, and how tokens get to the experts and back.

Rows are sorted by expert, each expert's matrices are multiplied with its stretch of them, and the products go back to
their tokens and are summed. Every step and its backward pass are gathers, so nothing depends on an order of additions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Arranged(NamedTuple):
    """Choices, each token's end to end, in the order of their experts."""

    order: Tensor
    """Of each row the choice; the number of choices where it is of none."""
    inverse: Tensor
    """Of each choice the row."""
    load: Tensor
    """Rows of each expert (experts,), those of no choice among them."""


def arranged(experts: Tensor, load: Tensor, x: Tensor) -> Arranged:
    """`experts` (choices,) by expert, of which each has `load`, for products with rows like those of x.

    In bfloat16 a CPU's products are compiled for the number of their rows, which takes longer than such a product.
    There each expert's rows are filled up to a multiple, a 16th of the mean at most, so that the numbers come again.
    """
    choices = experts.argsort(stable=True)
    rows, order = torch.arange(len(choices), device=choices.device), choices
    if (multiple := _multiple(x, len(choices) // len(load))) > 1:
        full = (load + multiple - 1) // multiple * multiple
        before = (full - load).cumsum(0) - (full - load)
        rows = rows + before.index_select(0, experts.index_select(0, choices))
        order = choices.new_full((int(full.sum()),), len(choices)).scatter_(0, rows, choices)
        load = full
    return Arranged(order, torch.empty_like(rows).scatter_(0, choices, rows), load)


def _multiple(x: Tensor, mean: int) -> int:
    """Of rows of one expert, where they are `mean`."""
    return 1 << max(0, (mean // 16).bit_length() - 1) if x.device.type == "cpu" and x.dtype == torch.bfloat16 else 1


def weights_of_rows(weights: Tensor, order: Tensor) -> Tensor:
    """Of `weights` (choices,) each row's: 0 where it is of no choice."""
    return F.pad(weights, (0, 1)).index_select(0, order)


def _tokens(order: Tensor, per_token: int, tokens: int) -> Tensor:
    """Of each row a token: where it is of no choice the last."""
    return (order // per_token).clamp_(max=tokens - 1)


class Dispatch(torch.autograd.Function):
    """x (tokens, width) to rows (rows, width): row i is of token order[i] // per_token. `inverse` undoes `order`."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, inverse: Tensor, per_token: int) -> Tensor:
        ctx.save_for_backward(order, inverse)
        ctx.per_token = per_token
        return x.index_select(0, _tokens(order, per_token, len(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        _, inverse = ctx.saved_tensors
        return grad.index_select(0, inverse).unflatten(0, (-1, ctx.per_token)).sum(dim=1), None, None, None


class Combine(torch.autograd.Function):
    """The sum of each token's rows, (tokens, width): what `Dispatch` does to gradients, and back. A row of no choice
    gets another's gradient: it is to be multiplied by 0."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor, per_token: int) -> Tensor:
        ctx.save_for_backward(order, inverse)
        ctx.per_token = per_token
        return rows.index_select(0, inverse).unflatten(0, (-1, per_token)).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        order, _ = ctx.saved_tensors
        return grad.index_select(0, _tokens(order, ctx.per_token, len(grad))), None, None, None


def grouped(x: Tensor, weights: Tensor, load: Tensor) -> Tensor:
    """Each expert's stretch of x (rows, in), of `load` (experts,) rows, times its matrix of `weights` (experts, out,
    in): (rows, out). By torch's grouped product where that runs, else one product an expert."""
    if x.is_cuda and (x.shape[1] * x.element_size()) % 16 == 0 == (weights.shape[1] * x.element_size()) % 16:
        return F.grouped_mm(x, weights.transpose(1, 2), offs=load.cumsum(0).to(torch.int32))
    return Looped.apply(x, weights, rows_by_expert(load, len(x)))


def rows_by_expert(load: Tensor, rows: int) -> list[int]:
    """How many rows each expert has; without values, on the meta device, the first has all: as much is multiplied."""
    return [rows] if load.is_meta else load.tolist()


class Looped(torch.autograd.Function):
    """`grouped`, one product an expert, each into its stretch of the result: nothing is stacked or split."""

    @staticmethod
    def forward(ctx, x: Tensor, weights: Tensor, rows: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.rows = rows
        out = x.new_empty(len(x), weights.shape[1])
        for part, weight, into in zip(x.split(rows), weights.unbind(), out.split(rows)):
            if len(part):
                torch.mm(part, weight.t(), out=into)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weights = ctx.saved_tensors
        grad = grad.contiguous()  # of a sum it has no strides
        to_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        to_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        begin = 0
        for expert, count in enumerate(ctx.rows):
            part = slice(begin, begin + count)
            begin += count
            if to_weights is not None and count:
                torch.mm(grad[part].t(), x[part], out=to_weights[expert])
            elif to_weights is not None:
                to_weights[expert].zero_()
            if to_x is not None and count:
                torch.mm(grad[part], weights[expert], out=to_x[part])
        return to_x, to_weights, None
