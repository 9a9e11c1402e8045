"""The documents of a batch, for attention that stays within each.

Documents of like length are laid side by side, padded at their end, so that one call of an ordinary causal kernel
serves them all: no token looks at the padding behind it, and what the padding looks at is dropped. Scores between
documents are never computed. What it gives up: a copy of queries, keys, values and output.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

SCORES_A_CALL = 2**15
"""Padding is taken for a call of the kernel less where it costs fewer scores in each head than this."""


class Packed(NamedTuple):
    """Documents laid end to end, as flash-attn's kernels of sequences of different lengths take them."""

    q: Tensor
    k: Tensor
    v: Tensor
    cu_seqlens_q: Tensor
    """The documents' starts in q, and behind them its end: int32."""
    cu_seqlens_k: Tensor
    max_seqlen_q: int
    max_seqlen_k: int


class Within(Protocol):
    """What attention that stays within documents is told of them."""

    @property
    def whole_windows(self) -> bool:
        """Every query sees all keys up to its own."""

    def each(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attention(q, k, v) of every group of like documents in turn, in the batch's order again."""

    def packed(self, q: Tensor, k: Tensor, v: Tensor) -> Packed: ...


@dataclass(frozen=True, eq=False)
class Documents:
    """Which tokens of a batch (batch, tokens) belong together.

    Lengths are plain numbers beside the tensors, so that nothing waits for a GPU to tell them.
    """

    positions: Tensor
    """Of each token in its document, (batch, tokens) int64."""
    cu_seqlens: Tensor
    """The documents' starts in the batch's tokens laid end to end, and behind them the end: (documents + 1,) int32."""
    max_length: int
    """Tokens of the longest document."""
    groups: tuple[tuple[int, int], ...]
    """(documents, tokens) of each group of like length, padding included."""
    places: Tensor
    """Each token's row in the groups laid end to end, (batch·tokens,) int64."""

    def to(self, device: torch.device) -> "Documents":
        positions, cu_seqlens, places = (
            tensor.to(device, non_blocking=True) for tensor in (self.positions, self.cu_seqlens, self.places)
        )
        return replace(self, positions=positions, cu_seqlens=cu_seqlens, places=places)

    @property
    def whole_windows(self) -> bool:
        """No document ends inside the batch's windows."""
        return self.groups == (tuple(self.positions.shape),)

    def grouped(self, x: Tensor) -> list[Tensor]:
        """(batch, tokens, heads, dim) as one (documents, tokens, heads, dim) for each group, zeros for padding."""
        sizes = [documents * tokens for documents, tokens in self.groups]
        rows = x.new_zeros(sum(sizes), *x.shape[2:]).index_copy(0, self.places, x.flatten(0, 1))
        return [part.unflatten(0, group) for part, group in zip(rows.split(sizes), self.groups)]

    def ungrouped(self, groups: list[Tensor]) -> Tensor:
        """`grouped` undone."""
        rows = torch.cat([group.flatten(0, 1) for group in groups])
        return rows.index_select(0, self.places).unflatten(0, self.positions.shape)

    def each(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attention(q, k, v) of every group in turn, in the batch's order again."""
        return self.ungrouped([attention(*group) for group in zip(self.grouped(q), self.grouped(k), self.grouped(v))])

    def packed(self, q: Tensor, k: Tensor, v: Tensor) -> Packed:
        starts, longest = self.cu_seqlens, self.max_length
        return Packed(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), starts, starts, longest, longest)


def documents_from(starts: np.ndarray) -> Documents:
    """The documents that begin where `starts` (batch, tokens) is true, as at every row's first token; on the CPU."""
    firsts = np.flatnonzero(starts)
    lengths = np.diff(firsts, append=starts.size)
    document = np.cumsum(starts) - 1
    positions = positions_from(starts)
    sizes_of = np.minimum(padded(lengths), starts.shape[1])
    order = np.argsort(sizes_of, kind="stable")
    begins = np.empty_like(firsts)
    begins[order] = np.cumsum(sizes_of[order]) - sizes_of[order]
    sizes, counts = np.unique(sizes_of, return_counts=True)
    return Documents(
        positions=positions,
        cu_seqlens=torch.from_numpy(np.append(firsts, starts.size).astype(np.int32)),
        max_length=int(lengths.max()),
        groups=tuple(zip(counts.tolist(), sizes.tolist())),
        places=torch.from_numpy(begins[document]) + positions.flatten(),
    )


def positions_from(starts: np.ndarray) -> Tensor:
    """Of each token in its document (batch, tokens) int64, with `starts` as of `documents_from`."""
    places = np.arange(starts.shape[1])
    return torch.from_numpy(places - np.maximum.accumulate(np.where(starts, places, 0), axis=1))


def padded(lengths: np.ndarray) -> np.ndarray:
    """To what each of `lengths` is padded: the next of …, 32, 48, 64, 96, …, or one further up where few share it."""
    half_octave = np.maximum(2 ** np.floor(np.log2(lengths)).astype(np.int64) // 2, 1)
    sizes, counts = np.unique(-(-lengths // half_octave) * half_octave, return_counts=True)
    kept, waiting = [], 0
    for size, larger, count in zip(sizes, sizes[1:], counts):
        waiting += count
        if waiting * (larger**2 - size**2) >= SCORES_A_CALL:
            kept.append(size)
            waiting = 0
    kept.append(sizes[-1])
    return np.array(kept)[np.searchsorted(kept, lengths)]
