"""What a layer keeps of its forward pass for the backward one (training.activation_checkpointing).

    none        everything that the backward pass reads
    selective   what matrix products and attention gave; the rest, a few passes over memory, is made of it again
    full        the layer's input: the whole layer runs again

Each gives the same loss and gradients, to the bit. Selective goes by operation: it sees what is dispatched, so
flash-attn by the operation it registers. (torch's own contexts for this hold every operation of the second pass
against the first's; under ZeRO 3 these differ, as its gathers do.) What it gives up: the tiled kernel of CPUs runs
again, as its operations lie inside one of autograd's.
"""

import contextlib
import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint, noop_context_fn

Given = TypeVar("Given")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
"""Of aten."""
ATTENTION = ("_scaled_dot_product_", "_flash_attn_", "_flash_attention_forward", "_efficient_attention_forward")
"""Beginnings of the names of fused attentions' forward operations, in whatever namespace."""
_unkept = ContextVar("unkept", default=False)


def keeping(which: str, layer: Callable[..., Given], *inputs: object) -> Given:
    """`layer` of `inputs`, which keeps for its backward pass what `which` says: none | selective | full."""
    if which == "none":
        return layer(*inputs)
    contexts = _selective if which == "selective" else noop_context_fn
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def unkept() -> Iterator[None]:
    """Within the block nothing is kept selectively: what is done there has its own way for the backward pass."""
    token = _unkept.set(True)
    try:
        yield
    finally:
        _unkept.reset(token)


def _selective() -> tuple[TorchDispatchMode, TorchDispatchMode]:
    kept: dict[object, deque] = defaultdict(deque)
    return _Keeping(kept), _Reusing(kept)


class _Keeping(TorchDispatchMode):
    """Keeps what the operations give that are kept, those of one kind in the order of their calls."""

    def __init__(self, kept: dict[object, deque]):
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if _is_kept(func) and not _unkept.get():
            self.kept[func].append(tree_map(_detached, result))
        return result


class _Reusing(TorchDispatchMode):
    """Gives what was kept in its place; any other operation runs again."""

    def __init__(self, kept: dict[object, deque]):
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kept = _is_kept(func) and not _unkept.get()
        return self.kept[func].popleft() if kept else func(*args, **(kwargs or {}))


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


@functools.cache
def _is_kept(operation: torch._ops.OpOverload) -> bool:
    """Results that are written into another tensor (`out`) are not an operation's to keep."""
    namespace, _, name = operation._schema.name.partition("::")
    if operation._schema.is_mutable or "backward" in name:
        return False
    return (namespace == "aten" and name in PRODUCTS) or name.startswith(ATTENTION)
