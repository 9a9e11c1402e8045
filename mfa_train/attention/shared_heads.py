"""Sequences that several ranks share (parallel.context) by their heads: DeepSpeed's Ulysses (arXiv 2309.14509).

Each rank makes queries, keys and values of its own tokens. The ranks then change tokens for heads, so that each has its
share of the heads over all tokens, attends as if it were alone, and the heads' outputs go back. What is sent falls with
the number of ranks, where entries are the same for any number; what it gives up: nothing is computed meanwhile, and
the ranks must divide query and key-value heads (DeepSpeed's way with others asks for groups of its own making).
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mfa_train.attention.base import Attention
from mfa_train.attention.cache import LayerCache
from mfa_train.attention.documents import Documents
from mfa_train.attention.kernels.causal import causal_attention
from mfa_train.attention.rope import Positions
from mfa_train.attention.shared import SharedSequence
from mfa_train.parallel.groups import ContextGroup
from mfa_train.parallel.stretches import in_order, rank_by_rank


class SharedHeads(SharedSequence):
    """A `SharedSequence` that goes by heads wherever no cache wants the entries."""

    def __init__(self, group: ContextGroup, tokens: int, documents: Documents | None = None):
        """`documents`: those of the whole sequences."""
        super().__init__(group, tokens)
        self.within = documents
        self.places = documents.positions if documents else None

    @functools.cached_property
    def ulysses(self) -> Callable[..., Tensor]:
        """Attention of q, k and v (batch, local tokens, heads, …) by `of_share`."""
        from deepspeed.sequence.layer import DistributedAttention

        return DistributedAttention(self.of_share, self.group.handle, scatter_idx=2, gather_idx=1)

    def attention(self, layer: Attention, x: Tensor, positions: Positions, cache: LayerCache | None) -> Tensor:
        if cache is not None:
            return super().attention(layer, x, positions, cache)
        q = layer.query(x, positions)
        k, v = layer.keys_values(*layer.cache_entry(x, positions), positions=positions)
        return self.by_heads(q, k, v, layer.scale, layer.kernel, layer.sinks)

    @torch._disable_dynamo
    def by_heads(self, q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: str, sinks: Tensor | None) -> Tensor:
        """Causal attention over all tokens of the local tokens' q (batch, local tokens, heads, qk_dim), k and v (batch,
        local tokens, kv_heads, …): (batch, local tokens, heads, v_dim)."""
        outputs = []
        # Attention lies between two exchanges; both count as waiting, and it with them.
        self.group.waits(lambda: outputs.append(self.ulysses(q, k, v, 0, scale=scale, kernel=kernel, sinks=sinks)))
        return outputs[0]

    def of_share(self, q: Tensor, k: Tensor, v: Tensor, *, scale: float, kernel: str, sinks: Tensor | None) -> Tensor:
        """Of this rank's share of the heads, tensors (batch, tokens, heads of it, …) with the ranks' local tokens one
        rank behind the other."""
        ranks = self.group.size
        q, k, v = (in_order(x.unflatten(1, (ranks, -1)).transpose(0, 1)) for x in (q, k, v))
        own = sinks if sinks is None else sinks.chunk(ranks)[self.group.rank]
        return rank_by_rank(causal_attention(q, k, v, scale, kernel, self.within, own), ranks)
