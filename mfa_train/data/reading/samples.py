"""One corpus's training samples: an endless sequence of windows of its tokens, each where order.py says it lies."""

from functools import lru_cache

import numpy as np

from mfa_train.data.reading.order import Order, Place
from mfa_train.data.shards.shards import Shards, TokenRun
from mfa_train.errors import ConfigError

NEAREST = 256
"""Samples whose own parts come first: further ones lie in the blocks that follow."""


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
        self.shards, self.sequence_length = shards, sequence_length
        self.order = Order(shards.num_tokens, sequence_length, seed, lanes, shuffle_tokens)
        self.run = lru_cache(maxsize=3)(self._run)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Samples `indices`, (len(indices), sequence_length + 1) in the shards' own type."""
        place = self.order.place(np.asarray(indices))
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

    def parts_ahead(self, indices: np.ndarray, turn: float = 0.0) -> list[int]:
        """The parts of shards that samples `indices` read, the first NEAREST of them in their order, then those that
        their lanes read in their blocks now, and then next. A block's parts begin at the share `turn` of them: whoever
        shares a cache begins elsewhere than the others."""
        wanted: dict[int, None] = {}
        place = self.order.place(indices[:NEAREST])
        for epoch, start in zip(place.epoch.tolist(), place.start.tolist()):
            wanted |= dict.fromkeys(self.run(epoch).parts_between(start, start + self.sequence_length + 1))
        for epoch, start, stop in self.order.read_soon(indices):
            parts = self.run(epoch).parts_between(start, stop)
            first = int(turn * len(parts))
            wanted |= dict.fromkeys(parts[first:] + parts[:first])
        return list(wanted)

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

    def _run(self, epoch: int) -> TokenRun:
        return TokenRun(self.shards, self.order.shards(epoch, len(self.shards)))


def require_tokens(shards: Shards, sequence_length: int, what: str) -> None:
    if shards.num_tokens <= sequence_length:
        raise ConfigError(
            f"training.sequence_length={sequence_length} is longer than the {what} data "
            f"({shards.num_tokens} tokens): type training.sequence_length={shards.num_tokens - 1} or less"
        )
