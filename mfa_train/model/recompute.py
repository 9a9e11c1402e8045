"""What a layer keeps of its forward pass for the backward one (training.activation_checkpointing).

    none        everything that the backward pass reads
    selective   what matrix products and attention gave; the rest, a few passes over memory, is made of it again
    full        the layer's input: the whole layer runs again

Each gives the same loss and gradients, to the bit. Selective is torch's policy by operation
(`create_selective_checkpoint_contexts`): it sees what is dispatched, so flash-attn by the operation it registers. What
it gives up: the tiled kernel of CPUs runs again, as its operations lie inside one of autograd's.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
"""Of aten."""
ATTENTION = ("_scaled_dot_product_", "_flash_attn_", "_flash_attention_forward", "_efficient_attention_forward")
"""Beginnings of the names of fused attentions' forward operations, in whatever namespace."""


def keeping(which: str, layer: Callable[..., Tensor], *inputs: object) -> Tensor:
    """`layer` of `inputs`, which keeps for its backward pass what `which` says: none | selective | full."""
    if which == "none":
        return layer(*inputs)
    contexts = _selective if which == "selective" else noop_context_fn
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


def _selective() -> tuple:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: object, operation: torch._ops.OpOverload, *args: object, **kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if _is_kept(operation) else CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache
def _is_kept(operation: torch._ops.OpOverload) -> bool:
    """Results that are written into another tensor (`out`) are not an operation's to keep."""
    namespace, _, name = operation._schema.name.partition("::")
    if operation._schema.is_mutable or "backward" in name:
        return False
    return (namespace == "aten" and name in PRODUCTS) or name.startswith(ATTENTION)
