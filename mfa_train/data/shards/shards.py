"""The shards of a split, opened where they are first read, and read as one run of tokens in any order of them."""

import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mfa_train.data.shards.cache import is_url
from mfa_train.data.shards.shard import Shard
from mfa_train.data.shards.store import ShardStore
from mfa_train.errors import DataError

OPEN = 256
"""Files open at once; what is needed again is opened again."""


class Shards:
    """Nothing is opened, hashed or fetched before its tokens are read. `vocab_size` is their tokenizer's.

    What is made ready at once is a part: of a shard that is fetched in parts (store.py) one of these, else the shard.
    Parts are numbered through all shards.
    """

    def __init__(self, store: ShardStore, shards: Sequence[Shard], vocab_size: int):
        self.store, self.shards, self.vocab_size = store, [shard for shard in shards if shard.tokens], vocab_size
        self.tokens = np.array([shard.tokens for shard in self.shards], dtype=np.int64)
        self.num_tokens = int(self.tokens.sum())
        self.dtype = np.result_type(np.uint16, *{shard.dtype for shard in self.shards})
        self.part_tokens = np.array([store.part_tokens(shard) for shard in self.shards], dtype=np.int64)
        """(shards,) of each part of a shard but its last."""
        self.parts = np.concatenate(([0], np.cumsum(-(-self.tokens // np.maximum(1, self.part_tokens)))))
        """(shards + 1,) the number of each shard's first part; in the end how many there are."""
        self.files: dict[int, BinaryIO] = {}
        self.maps: dict[int, np.ndarray] = {}
        """(tokens,) of the parts whose files are open."""
        self.ends: dict[int, int] = {}
        """Bytes that these files have at least."""

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in the order of the documents, (stop - start,) int64; both within num_tokens."""
        run = TokenRun(self, np.arange(len(self)))
        return run.read(np.array([start]), stop - start, lambda: run)[0].astype(np.int64)

    def of(self, part: int) -> np.ndarray:
        """(tokens,) of a part, mapped. Raises DataError for one that is damaged, missing or out of reach, also when it
        was cut off since it was opened: reading on would end the process."""
        file = self.files.get(part) or self._open(part)
        self._require_whole(file, part)
        return self.maps[part]

    def ready(self, part: int) -> Path:
        """The file on this machine that holds a part, checked. Raises DataError, naming it, where that can't be."""
        shard, number, _, _ = self._place(part)
        return self.store.ready(shard, number)

    def bytes_to_fetch(self, parts: Sequence[int]) -> int:
        """Of `parts` together, those behind URLs."""
        numbers = np.array(parts, dtype=np.int64)
        index = np.searchsorted(self.parts, numbers, side="right") - 1
        begins = (numbers - self.parts[index]) * self.part_tokens[index]
        tokens = np.minimum(self.tokens[index] - begins, self.part_tokens[index])
        sizes = np.zeros(len(self), dtype=np.int64)  # of a token that is fetched
        for one in np.unique(index).tolist():
            if is_url(self.store.location(self.shards[one])):
                sizes[one] = np.dtype(self.shards[one].dtype).itemsize
        return int((sizes[index] * tokens).sum())

    def _place(self, part: int) -> tuple[Shard, int, int, int]:
        """A part's shard, its number in it, and the tokens [begin, end) of the shard that it holds."""
        index = int(np.searchsorted(self.parts, part, side="right")) - 1
        number, size = part - int(self.parts[index]), int(self.part_tokens[index])
        return self.shards[index], number, number * size, min((number + 1) * size, int(self.tokens[index]))

    def _require_whole(self, file: BinaryIO, part: int) -> None:
        needed = self.ends[part]
        if (found := os.lseek(file.fileno(), 0, os.SEEK_END)) < needed:
            raise DataError(f"{file.name}: {found} bytes, where the manifest tells of {needed}: it is cut off")

    def _open(self, part: int) -> BinaryIO:
        # A file that the cache has removed takes its room as long as it is open.
        gone = {other for other, file in self.files.items() if not os.fstat(file.fileno()).st_nlink}
        for other in gone.union(list(self.files)[: max(0, len(self.files) - OPEN)]):
            del self.maps[other], self.ends[other]
            self.files.pop(other).close()
        try:
            file = self.ready(part).open("rb", buffering=0)
        except FileNotFoundError:  # another process needed its room in the cache just now
            file = self.ready(part).open("rb", buffering=0)
        shard, _, begin, end = self._place(part)
        first = 0 if self.store.in_parts(shard) else shard.span[0]
        self.ends[part] = first + (end - begin) * np.dtype(shard.dtype).itemsize
        self._require_whole(file, part)
        self.files[part] = file
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)  # windows lie far from each other: nothing is read ahead
        self.maps[part] = np.frombuffer(mapped, shard.dtype, end - begin, first)
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

    def parts_between(self, start: int, stop: int) -> list[int]:
        """The parts that hold tokens [start, stop) of the run."""
        first, last = np.searchsorted(self.ends, (start, stop - 1), side="right").tolist()
        found: list[int] = []
        for place in range(first, min(last + 1, len(self.order))):
            shard, begin = int(self.order[place]), int(self.begins[place])
            size, part = int(self.shards.part_tokens[shard]), int(self.shards.parts[shard])
            end = min(stop, int(self.ends[place])) - begin
            found += range(part + max(0, start - begin) // size, part + (end - 1) // size + 1)
        return found

    def read(self, starts: np.ndarray, length: int, following: Callable[[], "TokenRun"]) -> np.ndarray:
        """The `length` tokens from each of `starts` on, (len(starts), length) of the shards' type; behind the run's end
        those of `following()`."""
        places = np.searchsorted(self.ends, starts, side="right")
        shards = self.order[places]
        within, begins = np.divmod(starts - self.begins[places], self.shards.part_tokens[shards])
        numbers = (self.shards.parts[shards] + within).tolist()
        maps = {number: self.shards.of(number) for number in set(numbers)}
        parts = []
        for place, number, begin in zip(places.tolist(), numbers, begins.tolist()):
            part = maps[number][begin : begin + length]
            parts.append(part if len(part) == length else self._read_on(part, place, number + 1, length, following))
        out = np.empty((len(starts), length), dtype=self.shards.dtype)
        np.concatenate(parts, out=out.reshape(-1))
        return out

    def _read_on(
        self, read: np.ndarray, place: int, number: int, length: int, following: Callable[[], "TokenRun"]
    ) -> np.ndarray:
        """`read` and what follows it, (length,): from the part `number` on, which is the shard's at `place` or the next
        shard's first."""
        run, found = self, [read]
        while (missing := length - sum(map(len, found))) > 0:
            if number == self.shards.parts[run.order[place] + 1]:
                place += 1
                if place == len(run.order):
                    run, place = following(), 0
                number = int(self.shards.parts[run.order[place]])
            found.append(self.shards.of(number)[:missing])
            number += 1
        return np.concatenate(found)
