"""Where each sample of a corpus lies: an endless order, a pure function of tokens, seed, sequence length and shuffling.

    1. An epoch's tokens are one run: all shards, in a shuffled order of their own. Epochs follow each other.
    2. Windows of sequence_length + 1 tokens lie end to end over that run, inputs and targets overlapping by all but
       one; the last window of an epoch reads on into the next. So an epoch's tokens are each an input exactly once.
    3. An epoch's windows are cut into `lanes` equal stretches. The samples take one window of each lane in turn, the
       lanes in a shuffled order each time, and a lane's windows in a shuffled order within blocks of `shuffle_tokens`.

So a batch draws from all over the corpus, while at any time only one stretch of each lane is being read: a node that
takes some of the lanes fetches little more than its share of the shards. Any sample costs the same as the first.
Nothing is read here: shuffle.py has the permutations, samples.py the tokens, and mixture.py says which corpus's sample
comes when.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mfa_train.data.reading.shuffle import Shuffle

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


class Order:
    """The samples of a corpus of `num_tokens` tokens, more than `sequence_length`, and of its shards."""

    def __init__(self, num_tokens: int, sequence_length: int, seed: int, lanes: int, shuffle_tokens: int):
        # More lanes, or larger blocks, than there are tokens change nothing.
        self.num_tokens, self.sequence_length, self.lanes = num_tokens, sequence_length, min(lanes, num_tokens)
        self.block = min(max(1, shuffle_tokens // sequence_length), num_tokens)
        self.shard_order, self.lane_order, self.window_order = (
            Shuffle(seed, purpose) for purpose in ("shards", "lanes", "windows")
        )
        self._chunk = lru_cache(maxsize=4)(self._place_chunk)

    def shards(self, epoch: int, count: int) -> np.ndarray:
        """The numbers of the corpus's `count` shards as they follow each other in an epoch's run."""
        return self.shard_order(np.arange(count), count, epoch)

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

    def lane(self, indices: np.ndarray) -> np.ndarray:
        return self.place(indices).lane

    def epochs(self, count: int) -> float:
        """How often the corpus has been read after its first `count` samples."""
        return count * self.sequence_length / self.num_tokens

    def read_soon(self, indices: np.ndarray) -> list[tuple[int, int, int]]:
        """(epoch, first token, last token + 1) of what the lanes of samples `indices` read in their blocks now and
        next, those of now first."""
        place = self.place(indices)
        blocks = sorted(set(zip(place.epoch.tolist(), place.lane.tolist(), place.block.tolist())))
        ahead = []
        for epoch, lane, block in blocks:
            _, windows, size = self._stretch(np.asarray(epoch), np.asarray(lane))
            last = (block + 1) * size >= windows
            ahead.append((epoch + 1, lane, 0) if last else (epoch, lane, block + 1))
        spans = []
        for epoch, lane, block in [*blocks, *ahead]:
            begin, windows, size = self._stretch(np.asarray(epoch), np.asarray(lane))
            start, stop = (
                int(begin + window) * self.sequence_length - epoch * self.num_tokens
                for window in (block * size, min((block + 1) * size, windows))
            )
            spans.append((epoch, start, stop + 1))
        return spans

    def _place_chunk(self, chunk: int) -> np.ndarray:
        """(fields of Place, CHUNK) of samples CHUNK·chunk and those behind it."""
        indices = np.arange(chunk * CHUNK, (chunk + 1) * CHUNK)
        epoch = indices * self.sequence_length // self.num_tokens
        first, lanes, whole, rest = self._lanes(epoch)
        rounds, lane = np.divmod(indices - first, lanes)
        lane = self.lane_order(lane, np.where(rounds < whole, lanes, rest), epoch, rounds)
        begin, windows, size = self._stretch(epoch, lane)
        block, within = np.divmod(rounds, size)
        within = self.window_order(within, np.minimum(size, windows - block * size), epoch, lane, block)
        start = (begin + block * size + within) * self.sequence_length - epoch * self.num_tokens
        return np.stack(Place(epoch, lane, block, start))

    def _first(self, epoch: np.ndarray) -> np.ndarray:
        """The first window of an epoch, counted from the first epoch's."""
        return -(-epoch * self.num_tokens // self.sequence_length)

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
