"""The decode cache: the entries of past tokens, and nothing else.

A row's tokens stand at its front, in their order, so an entry's place is its position; rows may be of different length.
Buffers are laid out for `capacity` tokens, so their bytes are exactly capacity × the KV budget per token; above FIRST
tokens they grow to it by doubling, as tokens come. In memory the tokens of one head follow each other. Entries may be
held in a smaller type than attention computes in (`cache_types`).
"""

import torch
from torch import Tensor

from mfa_train.attention.cache_types import read, stored
from mfa_train.attention.rope import Positions, Rope

FIRST = 2**14
"""Tokens that there is room for at once: who allows a million new ones seldom gets them."""


class LayerCache:
    """One layer's entries: tensors (batch, room, ...), filled up to the cache's length."""

    def __init__(self, cache: "DecodeCache"):
        self.cache = cache
        self.buffers: tuple[Tensor, ...] = ()

    def extend(self, entry: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Positions, Tensor | None]:
        """Stores the new tokens' entry; returns the entries and the positions of all tokens so far, and how many of
        them each row has (batch,): None where all have them all, or a new token sees no other's padding."""
        cache, new = self.cache, stored(entry, self.cache.dtype)
        start, end = cache.length, cache.length + entry[0].shape[1]
        self._make_room(new, start, end)
        if cache.lengths is None:
            lengths = None
            for buffer, part in zip(self.buffers, new):
                buffer[:, start:end] = part
        else:
            lengths = cache.lengths + (end - start)
            rows = torch.arange(len(lengths), device=lengths.device).unsqueeze(1)
            for buffer, part in zip(self.buffers, new):
                buffer[:, start:end] = 0  # a weight of zero times what stands in new memory could be NaN
                buffer[rows, cache.places] = part
        kept = tuple(buffer[:, :end] for buffer in self.buffers)
        return read(kept, entry[0].dtype), cache.rotations.between(0, end), lengths

    def _make_room(self, new: tuple[Tensor, ...], start: int, end: int) -> None:
        if self.buffers and end <= self.buffers[0].shape[1]:
            return
        room = min(self.cache.capacity, max(FIRST, 2 * end))
        grown = tuple(_buffer(part, room) for part in new)
        for larger, old in zip(grown, self.buffers):
            larger[:, :start] = old[:, :start]
        self.buffers = grown

    def clear_behind(self, lengths: Tensor, longest: int) -> None:
        """Zeros behind the `lengths` (batch,) of rows: padding, whatever it was, weighs nothing from now on."""
        rows, places = (torch.arange(longest, device=lengths.device) >= lengths.unsqueeze(1)).nonzero(as_tuple=True)
        for buffer in self.buffers:
            buffer[rows, places] = torch.zeros((), dtype=buffer.dtype, device=buffer.device)


class DecodeCache:
    """Entries of up to `capacity` tokens in every layer, held in `dtype` (None: as they come).

    The decoder calls `begin` before its layers and `advance` after them; a layer calls `LayerCache.extend`.
    """

    def __init__(self, num_layers: int, capacity: int, dtype: torch.dtype | None = None):
        self.capacity = capacity
        self.dtype = dtype
        self.length = 0
        """Tokens of the longest row."""
        self.lengths: Tensor | None = None
        """Tokens of each row (batch,); None where all have `length`."""
        self.layers = [LayerCache(self) for _ in range(num_layers)]
        self.rotations: Positions
        """Of every place that there is room for; `begin` makes them."""
        self.places: Tensor
        """Of the tokens that follow (batch, tokens), where rows are of different length; `begin` makes them."""

    def begin(self, rope: Rope, tokens: int, device: torch.device) -> Positions:
        """The positions of the `tokens` that follow in every row."""
        end = self.length + tokens
        if self.length == 0 or end > self.rotations.cos.shape[0]:
            self.rotations = rope(torch.arange(min(self.capacity, max(FIRST, 2 * end)), device=device))
        if self.lengths is not None:
            self.places = self.lengths.unsqueeze(1) + torch.arange(tokens, device=device)
            return self.rotations.at(self.places)
        return self.rotations.between(self.length, end)

    def advance(self, tokens: int, lengths: Tensor | None = None) -> None:
        """`tokens` more in every row; with `lengths` (batch,), as of prompts, so many in each, in front."""
        if lengths is not None:
            self.lengths = lengths + (self.length if self.lengths is None else self.lengths)
            for layer in self.layers:
                layer.clear_behind(self.lengths, self.length + tokens)
        elif self.lengths is not None:
            self.lengths = self.lengths + tokens
        self.length += tokens

    def cut(self, tokens: int) -> None:
        """From now on it holds the first `tokens` of every row."""
        self.length = tokens
        if self.lengths is not None:
            self.lengths = self.lengths.clamp(max=tokens)

    def of_rows(self, rows: Tensor) -> "DecodeCache":
        """A cache of the rows that `rows` (n,) names, one of them several times perhaps: each goes on by itself."""
        other = DecodeCache(len(self.layers), self.capacity, self.dtype)
        other.length, other.lengths, other.rotations = self.length, self.lengths, self.rotations
        for layer, its in zip(other.layers, self.layers):
            layer.buffers = its.buffers
        other.take_rows(rows)
        return other

    def take_rows(self, rows: Tensor) -> None:
        """From now on it holds the rows that `rows` (n,) names, one of them several times perhaps."""
        for layer in self.layers:
            layer.buffers = tuple(_of_rows(buffer, rows.to(buffer.device)) for buffer in layer.buffers)
        if self.lengths is not None:
            self.lengths = self.lengths[rows.to(self.lengths.device)]

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.buffers)

    @property
    def bytes_per_token(self) -> int:
        """Of one row's token in all layers; 0 before the first."""
        return sum(buffer[0, 0].nbytes for layer in self.layers for buffer in layer.buffers)


def _buffer(part: Tensor, room: int) -> Tensor:
    """(batch, room, ...) like `part`, the tokens of one head side by side in memory."""
    batch, _, *rest = part.shape
    if len(rest) <= 1:
        return part.new_empty(batch, room, *rest)
    return part.new_empty(batch, rest[0], room, *rest[1:]).transpose(1, 2)


def _of_rows(buffer: Tensor, rows: Tensor) -> Tensor:
    """buffer[rows], laid out as `_buffer` has it."""
    return buffer[rows] if buffer.dim() <= 3 else buffer.transpose(1, 2)[rows].transpose(1, 2)
