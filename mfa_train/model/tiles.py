"""The feed-forward computed a tile of tokens at a time (training.mlp_tile_tokens).

What lies between its input and its output, of a SwiGLU three times its width, exists for one tile alone, however long
the sequence is: the forward pass keeps the input, and the backward pass computes each tile again (TiledMLP of
DeepSpeed's ALST, arXiv 2506.13996). The weights' gradients are summed over the tiles in float32 and handed on once, so
that whoever waits for a gradient, as DeepSpeed does, sees one. Where the whole layer is computed again too, that ends
before the tiles: their input is the last it has to give.

What it gives up: the feed-forward's products are multiplied once more, and a graph has one backward pass.
"""

import functools
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from mfa_train.feed_forward.base import Routed
from mfa_train.feed_forward.family.dense import Dense
from mfa_train.model.recompute import unkept
from mfa_train.parallel.groups import WHOLE_SEQUENCES, ContextGroup

Function = Callable[[Tensor], Tensor]


def compute_in_tiles(
    model: nn.Module, tokens: int | None, compiled: bool = False, most: int | None = None
) -> list[nn.Module]:
    """Has the dense feed-forwards of `model`, which it gives, compute `tokens` of a batch at a time; None: none.

    compiled: whether torch.compile compiles what is done with a tile. most: for plans, which look at memory alone: stop
    after so many tiles.
    """
    found: list[nn.Module] = [module for module in model.modules() if type(module) is Dense] if tokens else []
    for module in found:
        function: Function = MethodType(_of_tokens, module)
        if compiled:
            function = torch.compile(function)
        vars(module)["forward"] = functools.partial(MethodType(_forward, module), function, tokens, most)
    return found


def _of_tokens(module: Dense, x: Tensor) -> Tensor:
    return Dense.forward(module, x)[0]


def _forward(
    module: Dense,
    function: Function,
    tokens: int,
    most: int | None,
    x: Tensor,
    sequences: ContextGroup = WHOLE_SEQUENCES,
) -> tuple[Tensor, Routed]:
    """In place of the module's own."""
    if x.shape[0] * x.shape[1] <= tokens:
        return Dense.forward(module, x)
    return _in_tiles(function, x, tokens, most, tuple(module.parameters())), ()


@torch.compiler.disable
def _in_tiles(function: Function, x: Tensor, tokens: int, most: int | None, weights: tuple[Tensor, ...]) -> Tensor:
    """x (batch, tokens, hidden_size) to the same shape. weights: all that `function` reads."""
    if not torch.is_grad_enabled():
        return _of_tiles(function, x, tokens, most)
    kept = _Kept.apply(torch.empty(0, device=x.device, requires_grad=True), x)
    return _Tiles.apply(x, kept.grad_fn, function, tokens, most, *weights)


def _of_tiles(function: Function, x: Tensor, tokens: int, most: int | None) -> Tensor:
    rows = x.detach().flatten(0, 1)
    y = torch.empty_like(rows)
    with unkept():
        for part in _parts(len(rows), tokens, most):
            y[part] = function(rows[None, part])[0]
    return y.view_as(x)


def _parts(rows: int, tokens: int, most: int | None) -> Iterator[slice]:
    return (slice(begin, begin + tokens) for begin in range(0, rows, tokens)[:most])


class _Kept(torch.autograd.Function):
    """A node that holds the tiles' input, made before they are computed: a layer that runs again stops at it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.empty_like(anchor)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise AssertionError("nothing is made of what it gives")


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kept: Any, function: Function, tokens: int, most: int | None, *weights: Tensor
    ) -> Tensor:
        ctx.kept, ctx.function, ctx.tokens, ctx.most, ctx.weights = kept, function, tokens, most, weights
        return _of_tiles(function, x, tokens, most)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,), ctx.kept = ctx.kept.saved_tensors, None
        rows, grad_rows = x.detach().flatten(0, 1), grads[0].flatten(0, 1)
        grad_x = torch.empty_like(rows)
        sums = [torch.zeros_like(one, dtype=torch.promote_types(one.dtype, torch.float32)) for one in ctx.weights]
        for part in _parts(len(rows), ctx.tokens, ctx.most):
            tile = rows[None, part].requires_grad_()
            with torch.enable_grad(), unkept():
                y = ctx.function(tile.view_as(tile))  # hooks of modules, as FlopCounterMode's, take no leaf here
            of_tile, *of_weights = torch.autograd.grad(y, (tile, *ctx.weights), grad_rows[None, part])
            grad_x[part] = of_tile[0]
            for total, one in zip(sums, of_weights, strict=True):
                total += one
            del y, of_tile, of_weights, one
        found = (total.to(weight.dtype) for total, weight in zip(sums, ctx.weights, strict=True))
        return grad_x.view_as(x), None, None, None, None, *found
