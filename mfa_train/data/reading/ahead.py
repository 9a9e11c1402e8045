"""What is read soon: the shards that a rank, or any node, needs from some sample on, and the room that takes in its
cache.

Each corpus is looked ahead for as long as it takes until all its lanes have given samples, however small its share. Of
a corpus that would take longer than MOST_SAMPLES, or that has more than MOST_LANES, all lanes, or shards, are counted:
rather too many than too few.
"""

from collections.abc import Sequence

import numpy as np

from mfa_train.data.reading.mixture import Mixture, Phase
from mfa_train.data.reading.samples import Samples
from mfa_train.data.shards.cache import is_url

MOST_SAMPLES = 2**18
MOST_LANES = 2**12


class Ahead:
    """Of batches of `batch_size` samples, shared out among `ranks` by corpus and lane."""

    def __init__(
        self, mixture: Mixture, phases: Sequence[Phase], samples: Sequence[Samples], batch_size: int, ranks: int
    ):
        self.mixture, self.phases, self.samples, self.batch_size, self.ranks = (
            mixture,
            phases,
            samples,
            batch_size,
            ranks,
        )
        self.known: dict[int, tuple[range, list[int]]] = {}
        self.looked = range(0)

    def wanted(self, first_sample: int, rank: int) -> list[tuple[int, int]] | None:
        """(corpus, shard) that the rank needs from `first_sample` on; of a corpus first those it needs now. None where
        it is as when it was asked before."""
        if first_sample in self.looked:
            return None
        for source in range(len(self.samples)):
            if source not in self.known or first_sample not in self.known[source][0]:
                batches = self._horizon(source, first_sample)
                again = range(first_sample, first_sample + max(1, batches // 2) * self.batch_size)
                self.known[source] = again, self.shards(source, first_sample, self.ranks).get(rank, [])
        self.looked = range(first_sample, min(again.stop for again, _ in self.known.values()))
        return [(source, shard) for source, (_, shards) in self.known.items() for shard in shards]

    def room(self, nodes: int) -> int:
        """Bytes behind URLs that the node with most of them reads side by side and next, at the beginning of any
        phase."""
        most = 0
        for phase in self.phases:
            needed = [0] * nodes
            for source, weight in enumerate(phase.weights):
                if weight and any(
                    is_url(self._location(source, shard)) for shard in range(len(self.samples[source].shards))
                ):
                    for node, shards in self.shards(source, phase.first_sample, nodes).items():
                        needed[node] += sum(self._bytes(source, shard) for shard in shards)
            most = max(most, *needed)
        return most

    def shards(self, source: int, first_sample: int, parts: int) -> dict[int, list[int]]:
        """The shards of a corpus that each of `parts` equal parts of the ranks needs from `first_sample` on; a part
        that needs none may be left out."""
        samples, batches = self.samples[source], self._horizon(source, first_sample)
        if samples.order.lanes > MOST_LANES:
            return {key: list(range(len(samples.shards))) for key in range(parts)}
        if batches * self.batch_size > MOST_SAMPLES:
            begin = int(self.mixture.given(first_sample)[source])
            return dict.fromkeys(range(parts), samples.shards_ahead(np.arange(begin, begin + 2 * samples.order.lanes)))
        indices = np.arange(first_sample, first_sample + batches * self.batch_size)
        corpus, number = self.mixture.place(indices)
        part = self._parts(corpus, number, parts)
        here = corpus == source
        return {one: samples.shards_ahead(number[here & (part == one)]) for one in np.unique(part[here]).tolist()}

    def _parts(self, corpus: np.ndarray, number: np.ndarray, parts: int) -> np.ndarray:
        """Which part of the ranks takes each sample."""
        if parts == 1:
            return np.zeros_like(corpus)
        lane = np.empty_like(number)
        for source, samples in enumerate(self.samples):
            here = np.flatnonzero(corpus == source)
            lane[here] = samples.order.lane(number[here])
        order = np.lexsort((lane.reshape(-1, self.batch_size), corpus.reshape(-1, self.batch_size)))
        part = np.empty_like(order)
        np.put_along_axis(
            part, order, np.broadcast_to(np.arange(self.batch_size) * parts // self.batch_size, order.shape), axis=1
        )
        return part.reshape(-1)

    def _horizon(self, source: int, first_sample: int) -> int:
        """Batches in which all lanes of the corpus give samples."""
        weight = self.phases[int(np.searchsorted(self.mixture.first_samples, first_sample, side="right")) - 1].weights[
            source
        ]
        lanes = 2 * min(self.samples[source].order.lanes, MOST_LANES)
        return 1 + -(-lanes * (weight.denominator if weight else 1) // ((weight.numerator or 1) * self.batch_size))

    def _location(self, source: int, shard: int) -> str:
        shards = self.samples[source].shards
        return shards.store.location(shards.shards[shard])

    def _bytes(self, source: int, shard: int) -> int:
        entry = self.samples[source].shards.shards[shard]
        return entry.tokens * np.dtype(entry.dtype).itemsize if is_url(self._location(source, shard)) else 0
