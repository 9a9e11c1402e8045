"""The shards of a split, opened where they are first read, and read as one run of tokens in any order of them."""

import mmap
import os
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.store import ShardStore
from mfa_train.errors import DataError

OPEN = 256
"""Files open at once; what is needed again is opened again."""


class Shards:
    """Nothing is opened, hashed or fetched before its tokens are read. `vocab_size` is their tokenizer's."""

    def __init__(self, store: ShardStore, shards: Sequence[Shard], vocab_size: int):
        self.store, self.shards, self.vocab_size = store, [shard for shard in shards if shard.tokens], vocab_size
        self.tokens = np.array([shard.tokens for shard in self.shards], dtype=np.int64)
        self.num_tokens = int(self.tokens.sum())
        self.dtype = np.result_type(np.uint16, *{shard.dtype for shard in self.shards})
        self.files: dict[int, BinaryIO] = {}
        self.maps: dict[int, np.ndarray] = {}
        """(tokens,) of the shards whose files are open."""

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in the order of the documents, (stop - start,) int64; both within num_tokens."""
        run = TokenRun(self, np.arange(len(self)))
        return run.read(np.array([start]), stop - start, lambda: run)[0].astype(np.int64)

    def of(self, index: int) -> np.ndarray:
        """(tokens,) of a shard, mapped. Raises DataError for one that is damaged, missing or out of reach, also when it
        was cut off since it was opened: reading on would end the process."""
        self._require_whole(self.files.get(index) or self._open(index), self.shards[index])
        return self.maps[index]

    def _require_whole(self, file: BinaryIO, shard: Shard) -> None:
        needed = (shard.first_token + shard.tokens) * np.dtype(shard.dtype).itemsize
        if (found := os.lseek(file.fileno(), 0, os.SEEK_END)) < needed:
            raise DataError(f"{file.name}: {found} bytes, where the manifest tells of {needed}: it is cut off")

    def _open(self, index: int) -> BinaryIO:
        # A file that the cache has removed takes its room as long as it is open.
        gone = {other for other, file in self.files.items() if not os.fstat(file.fileno()).st_nlink}
        for other in gone.union(list(self.files)[: max(0, len(self.files) - OPEN)]):
            del self.maps[other]
            self.files.pop(other).close()
        shard = self.shards[index]
        try:
            file = self.store.ready(shard).open("rb", buffering=0)
        except FileNotFoundError:  # another process needed its room in the cache just now
            file = self.store.ready(shard).open("rb", buffering=0)
        self._require_whole(file, shard)
        self.files[index] = file
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)  # windows lie far from each other: nothing is read ahead
        begin = shard.first_token * np.dtype(shard.dtype).itemsize
        self.maps[index] = np.frombuffer(mapped, shard.dtype, shard.tokens, begin)
        return file

    def unknown_token(self, index: int, token: int) -> DataError:
        return DataError(
            f"{self.store.location(self.shards[index])}: holds token {token}, and its tokenizer has "
            f"{self.vocab_size}: it is damaged, or another tokenizer's"
        )


class TokenRun:
    """The shards `order` (numbers in `shards`) one behind the other."""

    def __init__(self, shards: Shards, order: np.ndarray):
        self.shards, self.order = shards, order
        self.ends = np.cumsum(shards.tokens[order])
        self.begins = self.ends - shards.tokens[order]

    def shards_between(self, start: int, stop: int) -> list[int]:
        """Those that hold tokens [start, stop) of the run."""
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right")
        return self.order[first : last + 1].tolist()

    def read(self, starts: np.ndarray, length: int, following: Callable[[], "TokenRun"]) -> np.ndarray:
        """The `length` tokens from each of `starts` on, (len(starts), length) of the shards' type; behind the run's end
        those of `following()`."""
        places = np.searchsorted(self.ends, starts, side="right").tolist()
        begins = (starts - self.begins[places]).tolist()
        maps = {place: self.shards.of(int(self.order[place])) for place in set(places)}
        parts = []
        for place, begin in zip(places, begins):
            part = maps[place][begin : begin + length]
            parts.append(part if len(part) == length else self._read_on(part, place + 1, length, following))
        out = np.empty((len(starts), length), dtype=self.shards.dtype)
        np.concatenate(parts, out=out.reshape(-1))
        return out

    def _read_on(self, part: np.ndarray, place: int, length: int, following: Callable[[], "TokenRun"]) -> np.ndarray:
        """`part` and what follows it from the beginning of the shard at `place` on, (length,)."""
        run, parts = self, [part]
        while (missing := length - sum(map(len, parts))) > 0:
            if place == len(run.order):
                run, place = following(), 0
            parts.append(self.shards.of(int(run.order[place]))[:missing])
            place += 1
        return np.concatenate(parts)
