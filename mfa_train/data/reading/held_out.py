"""The held-out text that a run is evaluated on: the same windows each time, in the order of the documents."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np

from mfa_train.data.corpus import Corpus
from mfa_train.data.reading.mixture import Mixture, Phase
from mfa_train.data.reading.samples import require_tokens


class HeldOut:
    """The first `sequences` windows (0: all) of the corpora's held-out splits, taken by the weights of the mixture's
    last phase. Raises ConfigError for a sequence longer than one of them."""

    def __init__(self, corpora: Mapping[str, Corpus], last: Phase, sequence_length: int, sequences: int):
        self.names, self.sequence_length = list(corpora), sequence_length
        self.shards = [corpus.held_out for corpus in corpora.values()]
        for name, shards in zip(self.names, self.shards):
            require_tokens(shards, sequence_length, f"{name} held-out" if len(corpora) > 1 else "held-out")
        there = np.array([(shards.num_tokens - 1) // sequence_length for shards in self.shards])
        if sequences:
            corpus, window = Mixture([Phase(0, last.weights)]).place(np.arange(sequences))
            found = window < there[corpus]
            corpus, window = corpus[found], window[found]
        else:
            corpus = np.repeat(np.arange(len(there)), there)
            window = np.concatenate([np.arange(count) for count in there.tolist()])
        told = [list(map(str, last.weights)), *(corpus.fingerprint("held_out") for corpus in corpora.values())]
        self.fingerprint = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        self.windows = {name: window[corpus == source] for source, name in enumerate(self.names)}
        """Numbers of the windows of each corpus."""

    def at(self, name: str, windows: np.ndarray) -> np.ndarray:
        """The windows of that corpus themselves, (len(windows), sequence_length + 1) int64."""
        shards = self.shards[self.names.index(name)]
        starts = (np.asarray(windows) * self.sequence_length).tolist()
        return np.stack([shards.read(start, start + self.sequence_length + 1) for start in starts])
