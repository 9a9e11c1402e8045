"""One corpus's training samples: an endless sequence, a pure function of (shards, seed, sequence length, shuffling).

    1. An epoch's tokens are one run: all shards, in a shuffled order of their own. Epochs follow each other.
    2. Windows of sequence_length + 1 tokens lie end to end over that run, inputs and targets overlapping by all but
       one; the last window of an epoch reads on into the next. So an epoch's tokens are each an input exactly once.
    3. An epoch's windows are cut into `lanes` equal stretches. The samples take one window of each lane in turn, the
       lanes in a shuffled order each time, and a lane's windows in a shuffled order within blocks of `shuffle_tokens`.

So a batch draws from all over the corpus, while at any time only one stretch of each lane is being read: a node that
takes some of the lanes fetches little more than its share of the shards. Any sample costs the same as the first.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mfa_train.data.reading.order import Shuffle
from mfa_train.data.shards.shards import Shards, TokenRun
from mfa_train.errors import ConfigError

CHUNK = 4096
"""Samples whose places are computed at once: a few at a time would cost as much."""


class Place(NamedTuple):
    """Where samples lie; arrays of one length, int64."""

    epoch: np.ndarray
    lane: np.ndarray
    block: np.ndarray
    """Of the lane's windows, shuffled among each other."""
    start: np.ndarray
    """The window's first token in the epoch's run."""


class Samples:
    """Windows of `shards`, which an error calls the `what` data. Raises ConfigError for a sequence longer than the
    data."""

    def __init__(
        self,
        shards: Shards,
        sequence_length: int,
        seed: int,
        lanes: int = 64,
        shuffle_tokens: int = 2**24,
        what: str = "training",
    ):
        require_tokens(shards, sequence_length, what)
        # More lanes, or larger blocks, than there are tokens change nothing.
        self.shards, self.sequence_length, self.lanes = shards, sequence_length, min(lanes, shards.num_tokens)
        self.block = min(max(1, shuffle_tokens // sequence_length), shards.num_tokens)
        self.shard_order, self.lane_order, self.window_order = (
            Shuffle(seed, purpose) for purpose in ("shards", "lanes", "windows")
        )
        self.run = lru_cache(maxsize=3)(self._run)
        self._chunk = lru_cache(maxsize=4)(self._place_chunk)

    def epochs(self, count: int) -> float:
        """How often the corpus has been read after its first `count` samples."""
        return count * self.sequence_length / self.shards.num_tokens

    def place(self, indices: np.ndarray) -> Place:
        """Of samples `indices` (any whole numbers from 0)."""
        chunks, within = np.divmod(indices, CHUNK)
        if len(chunks) and (chunks == chunks[0]).all():
            return Place(*self._chunk(int(chunks[0]))[:, within])
        places = np.empty((len(Place._fields), len(indices)), dtype=np.int64)
        for chunk in np.unique(chunks).tolist():
            here = chunks == chunk
            places[:, here] = self._chunk(chunk)[:, within[here]]
        return Place(*places)

    def _place_chunk(self, chunk: int) -> np.ndarray:
        """(fields of Place, CHUNK) of samples CHUNK·chunk and those behind it."""
        indices = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
        epoch = indices * self.sequence_length // self.shards.num_tokens
        first, lanes, whole, rest = self._lanes(epoch)
        rounds, lane = np.divmod(indices - first, lanes)
        lane = self.lane_order(lane, np.where(rounds < whole, lanes, rest), epoch, rounds)
        begin, windows, size = self._stretch(epoch, lane)
        block, within = np.divmod(rounds, size)
        within = self.window_order(within, np.minimum(size, windows - block * size), epoch, lane, block)
        start = (begin + block * size + within) * self.sequence_length - epoch * self.shards.num_tokens
        return np.stack(Place(epoch, lane, block, start))

    def lane(self, indices: np.ndarray) -> np.ndarray:
        return self.place(indices).lane

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Samples `indices`, (len(indices), sequence_length + 1) in the shards' own type."""
        place = self.place(np.asarray(indices))
        epochs = sorted(set(place.epoch.tolist()))
        if len(epochs) == 1:
            out = self._read(epochs[0], place.start)
        else:
            out = np.empty((len(indices), self.sequence_length + 1), dtype=self.shards.dtype)
            for epoch in epochs:
                rows = np.flatnonzero(place.epoch == epoch)
                out[rows] = self._read(epoch, place.start[rows])
        self._require_known(out, place)
        return out

    def _read(self, epoch: int, starts: np.ndarray) -> np.ndarray:
        return self.run(epoch).read(starts, self.sequence_length + 1, lambda: self.run(epoch + 1))

    def _require_known(self, out: np.ndarray, place: Place) -> None:
        """Raises DataError naming the shard of a token id that the tokenizer doesn't have."""
        unsigned = out.view(self.shards.dtype.str.replace("i", "u"))  # a negative one is huge
        if not out.size or int(unsigned.max()) < self.shards.vocab_size:
            return
        row, column = np.argwhere(unsigned >= self.shards.vocab_size)[0].tolist()
        token = int(place.start[row]) + column
        run = self.run(int(place.epoch[row]))
        raise self.shards.unknown_token(run.shards_between(token, token + 1)[0], int(out[row, column]))

    def shards_ahead(self, indices: np.ndarray) -> list[int]:
        """The shards that the lanes of samples `indices` read in their blocks now and next, those of now first."""
        place = self.place(indices)
        blocks = sorted(set(zip(place.epoch.tolist(), place.lane.tolist(), place.block.tolist())))
        ahead = []
        for epoch, lane, block in blocks:
            _, windows, size = self._stretch(np.asarray(epoch), np.asarray(lane))
            last = (block + 1) * size >= windows
            ahead.append((epoch + 1, lane, 0) if last else (epoch, lane, block + 1))
        wanted: dict[int, None] = {}
        for epoch, lane, block in [*blocks, *ahead]:
            begin, windows, size = self._stretch(np.asarray(epoch), np.asarray(lane))
            start, stop = (
                int(begin + place) * self.sequence_length - epoch * self.shards.num_tokens
                for place in (block * size, min((block + 1) * size, windows))
            )
            wanted |= dict.fromkeys(self.run(epoch).shards_between(start, stop + 1))
        return list(wanted)

    def _first(self, epoch: np.ndarray) -> np.ndarray:
        """The first window of an epoch, counted from the first epoch's."""
        return -(-epoch * self.shards.num_tokens // self.sequence_length)

    def _lanes(self, epoch: np.ndarray) -> tuple[np.ndarray, ...]:
        """An epoch's first window, number of lanes, windows that each lane has, and how many lanes have one more."""
        first = self._first(epoch)
        windows = self._first(epoch + 1) - first
        lanes = np.minimum(self.lanes, windows)
        return first, lanes, windows // lanes, windows % lanes

    def _stretch(self, epoch: np.ndarray, lane: np.ndarray) -> tuple[np.ndarray, ...]:
        """A lane's first window, its number of windows, and how many of them a block has (the last one may have
        less)."""
        first, _, whole, rest = self._lanes(epoch)
        windows = whole + (lane < rest)
        blocks = -(-windows // self.block)
        return first + lane * whole + np.minimum(lane, rest), windows, -(-windows // blocks)

    def _run(self, epoch: int) -> TokenRun:
        count = len(self.shards)
        return TokenRun(self.shards, self.shard_order(np.arange(count), count, epoch))


def require_tokens(shards: Shards, sequence_length: int, what: str) -> None:
    if shards.num_tokens <= sequence_length:
        raise ConfigError(
            f"training.sequence_length={sequence_length} is longer than the {what} data "
            f"({shards.num_tokens} tokens): type training.sequence_length={shards.num_tokens - 1} or less"
        )
