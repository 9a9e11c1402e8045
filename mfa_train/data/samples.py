"""The training samples: one global sequence, a pure function of (corpus, seed, sequence length).

Sample i is a window of sequence_length + 1 tokens, inputs and targets overlapping by all but one. Windows lie end to end
over the corpus's tokens; each epoch reads all of them once, in a shuffled order of its own. Step s of a run consumes
samples [s·B, (s+1)·B), whoever computes them, so nothing depends on ranks, and any sample costs the same as the first.

What it gives up: documents are cut where windows end, and attention reaches across the documents of a window, which eos
tokens part.
"""

import hashlib
from typing import Any

import numpy as np

from mfa_train.data.order import permutation
from mfa_train.data.token_shards import TokenShards
from mfa_train.errors import ConfigError


class Samples:
    """Windows of `shards`, whose `split` an error names. Raises ConfigError for a sequence longer than the data."""

    def __init__(self, shards: TokenShards, sequence_length: int, seed: int, split: str = "training"):
        self.windows = (shards.num_tokens - 1) // sequence_length
        if self.windows < 1:
            raise ConfigError(f"training.sequence_length={sequence_length} is longer than the {split} data "
                              f"({shards.num_tokens} tokens): type training.sequence_length={shards.num_tokens - 1} or less")
        self.shards, self.sequence_length, self.seed = shards, sequence_length, seed

    def identity(self) -> dict[str, Any]:
        """What the samples are a function of, as JSON: two runs with equal ones see the same samples."""
        shards = hashlib.sha256()
        for shard in self.shards.shards:
            shards.update(f"{shard.num_tokens} {shard.tokens.dtype}\n".encode())
            shards.update(shard.tokens[:: max(1, shard.num_tokens // 4096)].tobytes())
        return {"shards": shards.hexdigest(), "windows": self.windows, "sequence_length": self.sequence_length,
                "seed": self.seed}

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Samples `indices` (any whole numbers from 0), (len(indices), sequence_length + 1) int64."""
        epochs, places = np.divmod(indices, self.windows)
        windows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            windows[here] = permutation(places[here], self.windows, self.seed, int(epoch))
        return self.at(windows)

    def at(self, windows: np.ndarray) -> np.ndarray:
        """The windows themselves, unshuffled, (len(windows), sequence_length + 1) int64."""
        starts = (np.asarray(windows) * self.sequence_length).tolist()
        return np.stack([self.shards.read(start, start + self.sequence_length + 1) for start in starts])
