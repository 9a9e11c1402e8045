"""A sequence that several ranks share (parallel.context), as one pass of one of them is given it.

What a token leaves in the cache is all that another rank has to know of it. So each rank works out the entries of its
own tokens, all ranks gather them (`Gathering`), and each attends with its own queries over the tokens before them. How
much is sent is the attention's KV budget.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfa_train.attention.cache import LayerCache
from mfa_train.attention.kernels.causal import causal_attention
from mfa_train.attention.pieces import Pieces
from mfa_train.attention.rope import Positions, Rope
from mfa_train.parallel.groups import ContextGroup
from mfa_train.parallel.stretches import Gathering, local, stretches

if TYPE_CHECKING:
    from mfa_train.attention.base import Attention


class SharedDocuments(NamedTuple):
    """Which tokens of sequences that are shared belong together."""

    positions: Tensor
    """Of each token in its document, (batch, tokens) int64: of the whole sequence."""
    pieces: tuple[Pieces, Pieces]
    """Of the rank's two stretches."""


class UnderWay(NamedTuple):
    """The entry of a layer's local tokens, on its way to all ranks."""

    gathering: Gathering
    gathered: Tensor
    shapes: list[torch.Size]
    """Of a token in each of the entry's tensors."""


class SharedSequence:
    """Sequences of `tokens`, of which this rank of the `group` has its stretches.

    The decoder calls `begin` before its layers; a layer calls `attention`.
    """

    def __init__(self, group: ContextGroup, tokens: int, documents: SharedDocuments | None = None):
        self.group, self.tokens, self.documents = group, tokens, documents
        self.places = documents.positions if documents else None
        """Of each token in its document (batch, tokens); None where they are those in the sequence."""
        self.rope: Rope
        """`begin` is told it."""
        self.rotations: Positions | None = None
        """Of all tokens, where a layer has asked for them."""

    def begin(self, rope: Rope, device: torch.device) -> Positions:
        """The positions of the local tokens."""
        self.rope, self.rotations = rope, None
        return rope(self.positions(device))

    def positions(self, device: torch.device) -> Tensor:
        """Of the local tokens in the sequence, (local tokens,), or each in its document, (batch, local tokens)."""
        if self.places is not None:
            return local(self.places, self.group)
        return local(torch.arange(self.tokens, device=device), self.group, 0)

    def attention(self, layer: "Attention", x: Tensor, positions: Positions, cache: LayerCache | None) -> Tensor:
        """What the layer's heads make of x (batch, local tokens, hidden_size) at its `positions`: (batch, local tokens,
        heads, v_head_dim). The cache, an empty one, takes the entries of all tokens."""
        under_way = self.leave(layer.cache_entry(x, positions))
        q = layer.query(x, positions)
        entry = self.arrive(under_way)
        del under_way  # all tokens' entries once more, as they came
        of_entry = positions if layer.entry_is_rotated else self.of_all(x.device)
        if cache is not None:
            entry, of_entry, _ = cache.extend(entry)
        k, v = layer.keys_values(*entry, positions=of_entry)
        return self.attend(q, k, v, layer.scale, layer.kernel, layer.sinks)

    @torch._disable_dynamo
    def leave(self, entry: tuple[Tensor, ...]) -> UnderWay:
        """The entry of the local tokens, tensors (batch, local tokens, …), sets out."""
        gathering = Gathering(self.group)
        packed = torch.cat([part.flatten(2) for part in entry], dim=2) if len(entry) > 1 else entry[0].flatten(2)
        return UnderWay(gathering, gathering.leave(packed), [part.shape[2:] for part in entry])

    @torch._disable_dynamo
    def arrive(self, under_way: UnderWay) -> tuple[Tensor, ...]:
        """The entries of all tokens, in their order."""
        gathering, gathered, shapes = under_way
        parts = gathering.arrive(gathered).split([shape.numel() for shape in shapes], dim=2)
        return tuple(part.unflatten(2, shape) for part, shape in zip(parts, shapes))

    @torch._disable_dynamo
    def of_all(self, device: torch.device) -> Positions:
        """The positions of all tokens."""
        if self.rotations is None:
            places = torch.arange(self.tokens, device=device) if self.places is None else self.places
            self.rotations = self.rope(places)
        return self.rotations

    @torch._disable_dynamo
    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, kernel: str, sinks: Tensor | None) -> Tensor:
        """Causal attention of the local tokens' q (batch, local tokens, heads, qk_dim) over k and v (batch, tokens,
        kv_heads, …) of all: (batch, local tokens, heads, v_dim)."""
        pieces = self.documents.pieces if self.documents else (None, None)
        (_, first), (_, second) = stretches(self.group.rank, self.group.size, self.tokens)
        (early_k, k), (early_v, v) = _Before.apply(k, first), _Before.apply(v, first)
        early_q, late_q = q.chunk(2, dim=1)
        early = causal_attention(early_q, early_k, early_v, scale, kernel, pieces[0], sinks)
        # Cut behind the first call, so that the backward pass is through with these gradients before it makes others.
        late = causal_attention(late_q, k[:, :second], v[:, :second], scale, kernel, pieces[1], sinks)
        return torch.cat((early, late), dim=1)


class _Before(torch.autograd.Function):
    """x (batch, tokens, …) up to a token, and x. The first's gradient is added into the second's: kernels, and what
    cuts their keys, give it as a tensor that nothing else reads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, end: int) -> tuple[Tensor, Tensor]:
        return x[:, :end], x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        early, whole = grads
        whole[:, : early.shape[1]] += early
        return whole, None
