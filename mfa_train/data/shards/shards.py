"""The shards of a split, opened where they are first read, and read as one run of tokens in any order of them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from mfa_train.data.shards.store import ShardStore
from mfa_train.errors import DataError

OPEN = 256
"""Files open at once; what is needed again is opened again."""


@dataclass(frozen=True)
class Shard:
    """What manifest.json tells of a shard's tokens."""

    name: str
    """Below the corpus's folder; or where it lies, a path or URL, without its ending."""
    tokens: int
    dtype: str
    first_token: int = 0
    """Where this split's tokens begin in the .bin file."""
    sha256: str | None = None
    """Of the .bin file; None for shards made elsewhere, of which it isn't known."""

    @classmethod
    def of(cls, entry: dict[str, Any]) -> "Shard":
        return cls(entry["name"], entry["tokens"], entry["dtype"], entry.get("first_token", 0), entry["sha256"]["bin"])


class Shards:
    """Nothing is opened, hashed or fetched before its tokens are read. `vocab_size` is their tokenizer's.

    Tokens are read by plain reads of just their bytes: mapped files would be read ahead around each window, and one that is
    cut off meanwhile would end the process.
    """

    def __init__(self, store: ShardStore, shards: Sequence[Shard], vocab_size: int):
        self.store, self.shards, self.vocab_size = store, [shard for shard in shards if shard.tokens], vocab_size
        self.tokens = np.array([shard.tokens for shard in self.shards], dtype=np.int64)
        self.num_tokens = int(self.tokens.sum())
        self.firsts = [shard.first_token for shard in self.shards]
        self.dtypes = [np.dtype(shard.dtype) for shard in self.shards]
        self.dtype = np.result_type(np.uint16, *set(self.dtypes))
        self.files: dict[int, BinaryIO] = {}

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in the order of the documents, (stop - start,) int64; both within num_tokens."""
        run = TokenRun(self, np.arange(len(self)))
        return run.read(np.array([start]), stop - start, lambda: run)[0].astype(np.int64)

    def read_into(self, out: np.ndarray, index: int, start: int) -> None:
        """Fills out (tokens,), of `dtype`, with a shard's tokens from `start` on. Raises DataError for a shard that is
        damaged, missing or out of reach."""
        file, dtype, first = self.files.get(index) or self._open(index), self.dtypes[index], self.firsts[index]
        part = out if dtype == out.dtype else np.empty(len(out), dtype)
        offset = (first + start) * part.itemsize
        if (found := os.preadv(file.fileno(), [part], offset)) < part.nbytes:
            raise DataError(f"{file.name}: ends at byte {offset + found}, where the manifest tells of "
                            f"{(first + self.shards[index].tokens) * part.itemsize}: it is cut off")
        if part is not out:
            out[:] = part

    def _open(self, index: int) -> BinaryIO:
        # A file that the cache has removed takes its room as long as it is open.
        gone = [other for other, file in self.files.items() if not os.fstat(file.fileno()).st_nlink]
        for other in [*gone, *list(self.files)[: max(0, len(self.files) - len(gone) - OPEN)]]:
            self.files.pop(other, None)
        self.files[index] = self.store.ready(self.shards[index]).open("rb", buffering=0)
        return self.files[index]

    def unknown_token(self, index: int, token: int) -> DataError:
        return DataError(f"{self.store.location(self.shards[index])}: holds token {token}, and its tokenizer has "
                         f"{self.vocab_size}: it is damaged, or another tokenizer's")


class TokenRun:
    """The shards `order` (numbers in `shards`) one behind the other."""

    def __init__(self, shards: Shards, order: np.ndarray):
        self.shards, self.order = shards, order.tolist()
        self.ends = np.cumsum(shards.tokens[order])
        self.begins = self.ends - shards.tokens[order]

    def shards_between(self, start: int, stop: int) -> list[int]:
        """Those that hold tokens [start, stop) of the run."""
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right")
        return self.order[first : last + 1]

    def read(self, starts: np.ndarray, length: int, following: Callable[[], "TokenRun"]) -> np.ndarray:
        """The `length` tokens from each of `starts` on, (len(starts), length); behind the run's end those of `following()`."""
        out = np.empty((len(starts), length), dtype=self.shards.dtype)
        places = np.searchsorted(self.ends, starts, side="right")
        begins = starts - self.begins[places]
        lefts = np.minimum(self.ends[places] - starts, length)
        for row, place, begin, left in zip(out, places.tolist(), begins.tolist(), lefts.tolist()):
            self.shards.read_into(row[:left], self.order[place], begin)
            if left < length:
                self._read_on(row[left:], place + 1, following)
        return out

    def _read_on(self, out: np.ndarray, place: int, following: Callable[[], "TokenRun"]) -> None:
        """Fills out (tokens,) from the beginning of the shard at `place`."""
        run = self
        while len(out):
            if place == len(run.order):
                run, place = following(), 0
            index = run.order[place]
            left = min(len(out), int(self.shards.tokens[index]))
            self.shards.read_into(out[:left], index, 0)
            out, place = out[left:], place + 1
