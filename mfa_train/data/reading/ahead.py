"""What is read soon: the parts of shards that a rank, or any node, needs from some sample on, and the room that this
takes in its cache.

Each corpus is looked ahead for as long as it takes until all its lanes have given samples, however small its share. Of
a corpus that would take longer than MOST_SAMPLES, or that has more than MOST_LANES, all lanes, or parts, are counted:
rather too many than too few.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from mfa_train.data.reading.mixture import Mixture, Phase
from mfa_train.data.reading.samples import Samples
from mfa_train.data.shards.cache import is_url

MOST_SAMPLES = 2**18
MOST_LANES = 2**12
TURNS = 8
"""Ranks of a node that begin at different parts of what they all need."""


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
        self.known: dict[int, tuple[range, Sequence[int]]] = {}
        self.looked = range(0)

    def wanted(self, first_sample: int, rank: int) -> list[tuple[int, int]] | None:
        """(corpus, part of its shards) that the rank needs from `first_sample` on; of a corpus first those it needs
        now. None where it is as when it was asked before."""
        if first_sample in self.looked:
            return None
        for source in range(len(self.samples)):
            if source not in self.known or first_sample not in self.known[source][0]:
                batches = self._horizon(source, first_sample)
                again = range(first_sample, first_sample + max(1, batches // 2) * self.batch_size)
                self.known[source] = again, self.needed(source, first_sample, self.ranks, [rank]).get(rank, [])
        self.looked = range(first_sample, min(again.stop for again, _ in self.known.values()))
        return [(source, part) for source, (_, parts) in self.known.items() for part in parts]

    def room(self, nodes: int) -> int:
        """Bytes behind URLs that the node with most of them reads side by side and next, at the beginning of any
        phase."""
        most = 0
        for phase in self.phases:
            needed = [0] * nodes
            for source, weight in enumerate(phase.weights):
                shards = self.samples[source].shards
                if weight and any(is_url(shards.store.location(shard)) for shard in shards.shards):
                    for node, parts in self.needed(source, phase.first_sample, nodes, range(nodes)).items():
                        needed[node] += shards.bytes_to_fetch(parts)
            most = max(most, *needed)
        return most

    def needed(self, source: int, first_sample: int, count: int, which: Collection[int]) -> Mapping[int, Sequence[int]]:
        """The parts of a corpus's shards that each of `which` of `count` equal groups of the ranks needs from
        `first_sample` on; a group that needs none may be left out."""
        samples, batches = self.samples[source], self._horizon(source, first_sample)
        if samples.order.lanes > MOST_LANES:
            return dict.fromkeys(which, range(int(samples.shards.parts[-1])))
        if batches * self.batch_size > MOST_SAMPLES:
            begin = int(self.mixture.given(first_sample)[source])
            return dict.fromkeys(which, samples.parts_ahead(np.arange(begin, begin + 2 * samples.order.lanes)))
        indices = np.arange(first_sample, first_sample + batches * self.batch_size)
        corpus, number = self.mixture.place(indices)
        group = self._groups(corpus, number, count)
        here = corpus == source
        numbers = {one: number[here & (group == one)] for one in which}
        return {one: samples.parts_ahead(found, one % TURNS / TURNS) for one, found in numbers.items() if len(found)}

    def _groups(self, corpus: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
        """Which of `count` equal groups of the ranks takes each sample."""
        if count == 1:
            return np.zeros_like(corpus)
        lane = np.empty_like(number)
        for source, samples in enumerate(self.samples):
            here = np.flatnonzero(corpus == source)
            lane[here] = samples.order.lane(number[here])
        order = np.lexsort((lane.reshape(-1, self.batch_size), corpus.reshape(-1, self.batch_size)))
        group = np.empty_like(order)
        np.put_along_axis(
            group, order, np.broadcast_to(np.arange(self.batch_size) * count // self.batch_size, order.shape), axis=1
        )
        return group.reshape(-1)

    def _horizon(self, source: int, first_sample: int) -> int:
        """Batches in which all lanes of the corpus give samples."""
        weight = self.phases[int(np.searchsorted(self.mixture.first_samples, first_sample, side="right")) - 1].weights[
            source
        ]
        lanes = 2 * min(self.samples[source].order.lanes, MOST_LANES)
        return 1 + -(-lanes * (weight.denominator if weight else 1) // ((weight.numerator or 1) * self.batch_size))
