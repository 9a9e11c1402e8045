"""What a stretch of shared sequences has of their documents, for attention that stays within each.

A stretch may begin inside a document: its queries see the document's tokens before the stretch too. Pieces of like
length are laid side by side as `documents` does it, those with tokens before each by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from mfa_train.attention.documents import Packed, padded


@dataclass(frozen=True, eq=False)
class Pieces:
    """Of the queries (batch, stretch) and of the keys from the sequences' first token to the stretch's end."""

    shape: tuple[int, int]
    """(batch, stretch)."""
    whole_windows: bool
    """Every query sees all keys up to its own."""
    groups: tuple[tuple[int, int, int], ...]
    """(pieces, queries, keys) of each group of like length, padding included."""
    places: Tensor
    """Each query's row in the groups laid end to end, (batch·stretch,) int64."""
    sources: Tensor
    """Of each key of the groups laid end to end its place in the batch's keys laid end to end, int64; of padding, any
    one's."""
    packed_sources: Tensor
    """The same without padding, of the pieces in the batch's order."""
    cu_queries: Tensor
    """The pieces' starts in the batch's queries laid end to end, and behind them the end: (pieces + 1,) int32."""
    cu_keys: Tensor
    """In `packed_sources`."""
    longest: tuple[int, int]
    """Queries and keys of the piece that has most."""

    def to(self, device: torch.device) -> "Pieces":
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.type is Tensor}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    def each(self, attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """attention(q, k, v) of every group in turn, in the batch's order again."""
        counts, queries, keys = zip(*self.groups)
        rows = q.new_zeros(sum(map(int.__mul__, counts, queries)), *q.shape[2:])
        rows = rows.index_copy(0, self.places, q.flatten(0, 1))
        of_queries = rows.split([count * size for count, size in zip(counts, queries)])
        of_keys, of_values = (
            x.flatten(0, 1).index_select(0, self.sources).split([count * size for count, size in zip(counts, keys)])
            for x in (k, v)
        )
        outputs = [
            attention(*(x.unflatten(0, (count, -1)) for x in group)).flatten(0, 1)
            for count, *group in zip(counts, of_queries, of_keys, of_values)
        ]
        return torch.cat(outputs).index_select(0, self.places).unflatten(0, self.shape)

    def packed(self, q: Tensor, k: Tensor, v: Tensor) -> Packed:
        k, v = (x.flatten(0, 1).index_select(0, self.packed_sources) for x in (k, v))
        return Packed(q.flatten(0, 1), k, v, self.cu_queries, self.cu_keys, *self.longest)


def pieces_from(starts: np.ndarray, begin: int, end: int) -> Pieces:
    """The pieces of tokens `begin` to `end` of each row, where documents begin where `starts` (batch, tokens) is true,
    as at every row's first token; on the CPU."""
    own = starts[:, begin:end].copy()
    own[:, 0] = True
    firsts = np.flatnonzero(own)
    row, column = np.divmod(firsts, end - begin)
    lengths = np.diff(firsts, append=own.size)
    began = np.maximum.accumulate(np.where(starts[:, :end], np.arange(end), 0), axis=1)
    before = begin + column - began[row, begin + column]
    alike = np.where(before, lengths, 0)
    if (inside := before == 0).any():
        alike[inside] = np.minimum(padded(lengths[inside]), end - begin)
    order = np.lexsort((alike, before))
    sizes, counts = np.unique(np.stack((before, alike), axis=1), axis=0, return_counts=True)
    rows = np.empty_like(firsts)
    rows[order] = np.cumsum(alike[order]) - alike[order]
    piece = np.cumsum(own) - 1
    origin = row * end + began[row, begin + column]
    return Pieces(
        shape=own.shape,
        whole_windows=not starts[:, 1:end].any(),
        groups=tuple(
            (count, size, size + ahead) for count, (ahead, size) in zip(counts.tolist(), sizes.tolist(), strict=True)
        ),
        places=torch.from_numpy(rows[piece] + np.arange(own.size) - firsts[piece]),
        sources=torch.from_numpy(np.minimum(_ranges(origin[order], (before + alike)[order]), len(starts) * end - 1)),
        packed_sources=torch.from_numpy(_ranges(origin, before + lengths)),
        cu_queries=torch.from_numpy(np.append(firsts, own.size).astype(np.int32)),
        cu_keys=torch.from_numpy(np.append(0, np.cumsum(before + lengths)).astype(np.int32)),
        longest=(int(lengths.max()), int((before + lengths).max())),
    )


def _ranges(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of each the whole numbers from its begin on, `counts` of them, end to end."""
    ends = np.cumsum(counts)
    return np.repeat(begins - (ends - counts), counts) + np.arange(ends[-1])
