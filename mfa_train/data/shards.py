"""The shards of a split, opened where they are first read, and read as one run of tokens in any order of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfa_train.data.shard_store import ShardStore
from mfa_train.errors import DataError

OPEN = 1024
"""Shards mapped into memory at once."""


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
    """Nothing is opened, hashed or fetched before its tokens are read. `vocab_size` is their tokenizer's."""

    def __init__(self, store: ShardStore, shards: Sequence[Shard], vocab_size: int):
        self.store, self.shards, self.vocab_size = store, [shard for shard in shards if shard.tokens], vocab_size
        self.tokens = np.array([shard.tokens for shard in self.shards], dtype=np.int64)
        self.num_tokens = int(self.tokens.sum())
        self.maps: dict[int, tuple[Path, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) in the order of the documents, (stop - start,) int64; both within num_tokens."""
        out = np.empty((1, stop - start), dtype=np.int64)
        TokenRun(self, np.arange(len(self))).read_into(out, [0], [start], lambda: None)
        return out[0]

    def open(self, index: int) -> np.ndarray:
        """(tokens,) of the shard, mapped. Raises DataError for one that is damaged, missing or out of reach."""
        if index not in self.maps:
            self._map(index)
        return self.maps[index][1]

    def _map(self, index: int) -> None:
        # A file that the cache has removed takes its room until nobody maps it any more.
        self.maps = {other: (path, tokens) for other, (path, tokens) in list(self.maps.items())[-OPEN:] if path.exists()}
        shard = self.shards[index]
        path, dtype = self.store.ready(shard), np.dtype(shard.dtype)
        stop = shard.first_token + shard.tokens
        if (found := path.stat().st_size) < stop * dtype.itemsize:
            raise DataError(f"{path}: {found} bytes, where the manifest tells of {stop * dtype.itemsize}: cut off?")
        self.maps[index] = path, np.memmap(path, dtype=dtype, mode="r")[shard.first_token : stop]

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

    def read_into(self, out: np.ndarray, rows: Sequence[int], starts: Sequence[int],
                  following: Callable[[], "TokenRun"]) -> None:
        """Fills `rows` of out (…, length) with the tokens from `starts` on; behind the run's end from `following()`."""
        length, shards = out.shape[1], self.shards
        starts = np.asarray(starts, dtype=np.int64)
        places = np.searchsorted(self.ends, starts, side="right")
        local = starts - self.begins[places]
        rows = list(rows)
        for row, place, begin in zip(rows, places.tolist(), local.tolist()):
            run, filled = self, 0
            while filled < length:
                if place == len(run.order):
                    run, place = following(), 0
                index = run.order[place]
                part = shards.open(index)[begin : begin + length - filled]
                out[row, filled : filled + len(part)] = part
                filled, place, begin = filled + len(part), place + 1, 0
