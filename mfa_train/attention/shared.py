"""A sequence that several ranks share (parallel.context), as one pass of one of them is given it.

What a token leaves in the cache is all that another rank has to know of it. So each rank works out the entries of its
own tokens, all ranks gather them (`Gathering`), and each attends with its own queries over the tokens before them. How
much is sent is the attention's KV budget.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

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
        self.of_all: Positions
        """The positions of all tokens; `begin` says how they are made."""

    def begin(self, rope: Rope, device: torch.device) -> Positions:
        """The positions of the local tokens."""
        self.of_all = cast(Positions, _WhenRead(lambda: rope(self.places_of_all(device))))
        return rope(self.positions(device))

    def places_of_all(self, device: torch.device) -> Tensor:
        """Of all tokens in the sequence, (tokens,), or each in its document, (batch, tokens)."""
        return torch.arange(self.tokens, device=device) if self.places is None else self.places

    def positions(self, device: torch.device) -> Tensor:
        """Of the local tokens in the sequence, (local tokens,), or each in its document, (batch, local tokens)."""
        return local(self.places_of_all(device), self.group, -1)

    def attention(self, layer: "Attention", x: Tensor, positions: Positions, cache: LayerCache | None) -> Tensor:
        """What the layer's heads make of x (batch, local tokens, hidden_size) at its `positions`: (batch, local tokens,
        heads, v_head_dim). The cache, an empty one, takes the entries of all tokens."""
        under_way = self.leave(layer.cache_entry(x, positions))
        q = layer.query(x, positions)
        entry, of_entry = self.arrive(under_way), self.of_all
        del under_way  # all tokens' entries once more, as they came
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


class _WhenRead:
    """Positions that are made when they are first read. Most attentions turn keys before they leave and read none; of a
    million tokens they are half a GiB."""

    def __init__(self, make: Callable[[], Positions]):
        self._make = make
        self._made: Positions | None = None

    @torch._disable_dynamo
    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


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
