"""The batches of a run: step s consumes samples [s·B, (s+1)·B) of one global sequence, whoever computes them.

The sequence is a pure function of corpora, mixture, seed, sequence length and shuffling: where a run stands is one
integer, and any step costs the same as the first. A rank takes its part of each batch by corpus and lane (order.py),
so that it reads, and fetches, from its own part of the shards.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mfa_train.config import DataConfig
from mfa_train.data.corpus import Corpus
from mfa_train.data.reading.ahead import Ahead
from mfa_train.data.reading.mixture import Mixture, phases_of
from mfa_train.data.reading.samples import Samples
from mfa_train.data.shards.fetch_ahead import FetchAhead
from mfa_train.errors import ConfigError

ORDER = 1
"""Raised when the order of samples changes."""


@dataclass(frozen=True)
class Share:
    """Whose part of each batch is read: that of `rank` among `world_size` processes, of which `local_world_size` are on
    its node; where processes share sequences, groups of them."""

    rank: int = 0
    world_size: int = 1
    local_world_size: int = 1


WHOLE = Share()


def share_of(rank: int, world_size: int, local_world_size: int, context: int) -> Share:
    """Of a process, where `context` consecutive ones share sequences, and read the same."""
    return Share(rank // context, world_size // context, max(1, local_world_size // context))


class Batches:
    """Batches of `batch_size` samples of (sequence_length + 1) tokens from `corpora` (by name): all that the sequence
    of samples depends on, and the part of it that is `mine`.

    Raises ConfigError for corpora that don't go together, and for a sequence that is longer than one of them.
    """

    def __init__(
        self,
        corpora: Mapping[str, Corpus],
        data: DataConfig,
        sequence_length: int,
        seed: int,
        batch_size: int,
        mine: Share = WHOLE,
    ):
        self.names, self.batch_size, self.mine = list(corpora), batch_size, mine
        _require_one_tokenizer(corpora)
        weights = data.weights if data.source == "mixture" else dict.fromkeys(corpora, 1)
        self.phases = phases_of(weights, self.names, sequence_length)
        self.mixture = Mixture(self.phases)
        self.samples = self._samples(corpora, data, sequence_length, seed, data.lanes)
        self.fetch_ahead = FetchAhead([corpus.train for corpus in corpora.values()])
        self.ahead = Ahead(self.mixture, self.phases, self.samples, batch_size, mine.world_size)
        with_lanes = functools.partial(self._samples, corpora, data, sequence_length, seed)
        self._require_room(data, max(1, mine.world_size // mine.local_world_size), with_lanes)
        self._identity = {
            f"{key} of corpus {number}": value
            for number, corpus in enumerate(corpora.values(), start=1)
            for key, value in corpus.identity().items()
        } | {
            "weights": [[phase.first_sample, *map(str, phase.weights)] for phase in self.phases],
            "sequence_length": sequence_length,
            "seed": seed,
            "lanes": data.lanes,
            "shuffle_tokens": data.shuffle_tokens,
            "order": ORDER,
        }

    def identity(self) -> dict[str, Any]:
        """All that the sequence of samples depends on, as JSON; not where the corpora lie, nor what they are called."""
        return self._identity

    @property
    def fingerprint(self) -> str:
        """Of `identity` but for the seed."""
        told = {key: value for key, value in self._identity.items() if key != "seed"}
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def share(self, first_sample: int) -> np.ndarray:
        """The numbers of this rank's samples of the batch that begins with `first_sample`: (batch_size /
        world_size,)."""
        indices = np.arange(first_sample, first_sample + self.batch_size)
        if self.mine.world_size == 1:
            return indices
        corpus, number = self.mixture.place(indices)
        lane = np.empty_like(indices)
        for source, samples in enumerate(self.samples):
            here = np.flatnonzero(corpus == source)
            lane[here] = samples.order.lane(number[here])
        size = self.batch_size // self.mine.world_size
        return indices[np.lexsort((lane, corpus))[self.mine.rank * size : (self.mine.rank + 1) * size]]

    def of(self, first_sample: int) -> np.ndarray:
        """This rank's samples of the batch that begins with `first_sample`, (batch_size / world_size, sequence_length +
        1)."""
        if not self.fetch_ahead.idle and (wanted := self.ahead.wanted(first_sample, self.mine.rank)) is not None:
            self.fetch_ahead.towards(wanted)
        return self.read(self.share(first_sample))

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Samples `indices` (any whole numbers from 0), (len(indices), sequence_length + 1) in the shards' own type."""
        if len(self.samples) == 1:
            return self.samples[0].batch(indices)
        corpus, number = self.mixture.place(np.asarray(indices))
        dtype = np.result_type(*(samples.shards.dtype for samples in self.samples))
        out = np.empty((len(indices), self.samples[0].sequence_length + 1), dtype)
        for source in np.unique(corpus).tolist():
            here = np.flatnonzero(corpus == source)
            out[here] = self.samples[source].batch(number[here])
        return out

    def progress(self, samples: int) -> dict[str, float]:
        """What the first `samples` samples have read, as metrics: epochs, and of a mixture each corpus's tokens and
        epochs."""
        given = self.mixture.given(samples).tolist()
        if len(self.samples) == 1:
            return {"data/epochs": self.samples[0].order.epochs(given[0])}
        told: dict[str, float] = {}
        for name, corpus, count in zip(self.names, self.samples, given):
            told |= {
                f"data/tokens/{name}": count * corpus.sequence_length,
                f"data/epochs/{name}": corpus.order.epochs(count),
            }
        return told

    @staticmethod
    def _samples(
        corpora: Mapping[str, Corpus], data: DataConfig, sequence_length: int, seed: int, lanes: int
    ) -> list[Samples]:
        return [
            Samples(
                corpus.train,
                sequence_length,
                seed,
                lanes,
                data.shuffle_tokens,
                f"{name} training" if len(corpora) > 1 else "training",
            )
            for name, corpus in corpora.items()
        ]

    def _require_room(self, data: DataConfig, nodes: int, with_lanes: Callable[[int], list[Samples]]) -> None:
        """Raises ConfigError, on all ranks alike, for a cache that cannot hold what a node reads side by side and
        next. Fewer lanes are proposed where they would fit."""
        if (needed := self.ahead.room(nodes)) <= data.cache_bytes:
            return
        fewer, lanes = "", self.samples[0].order.lanes // 4
        while lanes and not fewer:
            ahead = Ahead(self.mixture, self.phases, with_lanes(lanes), self.batch_size, self.mine.world_size)
            fewer = f", or data.lanes={lanes}" if ahead.room(nodes) <= data.cache_bytes else ""
            lanes //= 4
        raise ConfigError(
            f"data.cache_bytes={data.cache_bytes}: the shards that a node reads side by side and next have {needed} "
            f"bytes; type data.cache_bytes={2 * needed}{fewer}"
        )


def _require_one_tokenizer(corpora: Mapping[str, Corpus]) -> None:
    first, *others = corpora.items()
    for name, corpus in others:
        if corpus.tokenizer.sha256 != first[1].tokenizer.sha256:
            raise ConfigError(
                f"data.corpora.{name}: {corpus.path} was made with another tokenizer than {first[1].path}; prepare "
                f"it with data.tokenizer={first[1].path}/{first[1].manifest['tokenizer_file']}"
            )
        if corpus.tokenizer.eos_id != first[1].tokenizer.eos_id:
            theirs, ours = corpus.tokenizer.separator.token, first[1].tokenizer.separator.token
            raise ConfigError(
                f"data.corpora.{name}: documents end in {theirs!r} in {corpus.path}, and in {ours!r} in "
                f"{first[1].path}; "
                f"prepare one of them anew, with the other's data.eos_token"
            )
