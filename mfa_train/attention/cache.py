"""The decode cache: the entries of past tokens, and nothing else.

A row's tokens stand at its front, in their order, so an entry's place is its position; rows may be of different length.
Buffers are laid out for `capacity` tokens, so their bytes are exactly capacity × the KV budget per token; above FIRST
tokens they grow to it by doubling, as tokens come. In memory the tokens of one head follow each other.
"""

import torch
from torch import Tensor

from mfa_train.attention.rope import Positions, Rope

FIRST = 2**14
"""Tokens that there is room for at once: who allows a million new ones seldom gets them."""


class LayerCache:
    """One layer's entries: tensors (batch, room, ...), filled up to the cache's length."""

    def __init__(self, cache: "DecodeCache"):
        self.cache = cache
        self.buffers: tuple[Tensor, ...] | None = None

    def extend(self, entry: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Positions, Tensor | None]:
        """Stores the new tokens' entry; returns the entries and the positions of all tokens so far, and how many of
        them each row has (batch,): None where all have them all, or a new token sees no other's padding."""
        cache, new = self.cache, entry[0].shape[1]
        start, end = cache.length, cache.length + new
        if self.buffers is None or end > self.buffers[0].shape[1]:
            room = min(cache.capacity, max(FIRST, 2 * end))
            grown = tuple(_buffer(part, room) for part in entry)
            for larger, old in zip(grown, self.buffers or ()):
                larger[:, :start] = old[:, :start]
            self.buffers = grown
        if cache.lengths is None:
            for buffer, part in zip(self.buffers, entry):
                buffer[:, start:end] = part
        else:
            rows = torch.arange(len(cache.lengths), device=cache.lengths.device).unsqueeze(1)
            places = cache.places(new)
            for buffer, part in zip(self.buffers, entry):
                buffer[rows, places] = part
        lengths = None if cache.lengths is None else cache.lengths + new
        return tuple(buffer[:, :end] for buffer in self.buffers), cache.rotations.between(0, end), lengths


class DecodeCache:
    """Entries of up to `capacity` tokens in every layer.

    The decoder calls `begin` before its layers and `advance` after them; a layer calls `LayerCache.extend`.
    """

    def __init__(self, num_layers: int, capacity: int):
        self.capacity = capacity
        self.length = 0
        """Tokens of the longest row."""
        self.lengths: Tensor | None = None
        """Tokens of each row (batch,); None where all have `length`."""
        self.layers = [LayerCache(self) for _ in range(num_layers)]
        self.rotations: Positions
        """Of every place that there is room for; `begin` makes them."""

    def begin(self, rope: Rope, tokens: int, device: torch.device) -> Positions:
        """The positions of the `tokens` that follow in every row."""
        end = self.length + tokens
        if self.length == 0 or end > self.rotations.cos.shape[0]:
            self.rotations = rope(torch.arange(min(self.capacity, max(FIRST, 2 * end)), device=device))
        if self.lengths is not None:
            return self.rotations.at(self.places(tokens))
        return self.rotations.between(self.length, end)

    def places(self, tokens: int) -> Tensor:
        """Of the `tokens` that follow in every row (batch, tokens), where rows are of different length."""
        assert self.lengths is not None
        return self.lengths.unsqueeze(1) + torch.arange(tokens, device=self.lengths.device)

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """`tokens` more in every row; with `lengths` (batch,), as of prompts, so many in each."""
        if lengths is not None:
            assert self.length == 0, "rows part in the prompt alone"
            self.lengths = lengths
        elif self.lengths is not None:
            self.lengths = self.lengths + tokens
        self.length += tokens

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.buffers or ())


def _buffer(part: Tensor, room: int) -> Tensor:
    """(batch, room, ...) like `part`, the tokens of one head side by side in memory."""
    batch, _, *rest = part.shape
    if len(rest) == 1:
        return part.new_empty(batch, room, *rest)
    return part.new_empty(batch, rest[0], room, *rest[1:]).transpose(1, 2)
