"""The decode cache: the entries of past tokens, and nothing else.

Its buffers are laid out for `capacity` tokens, so its bytes are exactly capacity × the KV budget per token; above FIRST
tokens they grow to it by doubling, as tokens come.
"""

import torch
from torch import Tensor

from mfa_train.attention.rope import Positions

FIRST = 2**14
"""Tokens that there is room for at once: who allows a million new ones seldom gets them."""


class LayerCache:
    """One layer's entries: tensors (batch, room, ...), filled up to the cache's length."""

    def __init__(self, cache: "DecodeCache"):
        self.cache = cache
        self.buffers: tuple[Tensor, ...] | None = None

    def extend(self, entry: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Positions]:
        """Stores the new tokens' entry; returns the entries and the positions of all tokens so far."""
        start, end = self.cache.length, self.cache.length + entry[0].shape[1]
        if self.buffers is None or end > self.buffers[0].shape[1]:
            room = min(self.cache.capacity, max(FIRST, 2 * end))
            grown = tuple(
                torch.empty(part.shape[0], room, *part.shape[2:], dtype=part.dtype, device=part.device)
                for part in entry
            )
            for new, old in zip(grown, self.buffers or ()):
                new[:, :start] = old[:, :start]
            self.buffers = grown
        for buffer, part in zip(self.buffers, entry):
            buffer[:, start:end] = part
        return tuple(buffer[:, :end] for buffer in self.buffers), self.cache.positions


class DecodeCache:
    """Entries of up to `capacity` tokens in every layer.

    The decoder calls `begin` before its layers and `advance` after them; a layer calls `LayerCache.extend`.
    """

    def __init__(self, num_layers: int, capacity: int):
        self.capacity = capacity
        self.length = 0
        self.layers = [LayerCache(self) for _ in range(num_layers)]
        self.positions: Positions
        """Of all tokens, the cached and the new; `begin` says them."""

    def begin(self, positions: Positions) -> None:
        self.positions = positions

    def advance(self, tokens: int) -> None:
        self.length += tokens

    @property
    def num_bytes(self) -> int:
        return sum(buffer.nbytes for layer in self.layers for buffer in layer.buffers or ())
