"""Which corpus each sample comes from: a pure function of the weights, exact at every prefix to within one sample.

The weights are shares of the tokens (every sample has equally many), taken to five decimals. After any number of
samples each corpus has given its exact share, rounded up or down. The schedule is earliest deadline first over the
windows in which each corpus's next sample must fall to keep that promise (Baruah et al., "Proportionate progress",
Algorithmica 15, 1996: Pfair). It repeats after as many samples as the weights' common denominator, so one period is
computed and any sample's place is two look-ups. Weights may change at given numbers of tokens; what is owed is carried
over, but for a corpus that stops.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, zip_longest
from math import ceil, lcm
from typing import Any

import numpy as np

from mfa_train.data.fields import shown
from mfa_train.errors import ConfigError

DECIMALS = 100_000
MOST_TOKENS = 10**18
LARGEST_WEIGHT = 1e300


@dataclass(frozen=True)
class Phase:
    """Samples from `first_sample` on, by `weights` (fractions that sum to 1, one a corpus)."""

    first_sample: int
    weights: tuple[Fraction, ...]


class Mixture:
    """The schedule of `phases`, the first of which begins at sample 0."""

    def __init__(self, phases: Sequence[Phase]):
        self.schedules = []
        given, ideal = np.zeros(len(phases[0].weights), dtype=np.int64), [Fraction(0)] * len(phases[0].weights)
        for phase, following in zip_longest(phases, phases[1:]):
            samples = following.first_sample - phase.first_sample if following else None
            owed = [share - int(count) for share, count in zip(ideal, given)]
            schedule = _Schedule(given, phase.weights, owed, samples)
            self.schedules.append(schedule)
            if samples is not None:
                given = schedule.given(samples)
                ideal = [share + samples * weight for share, weight in zip(ideal, phase.weights)]
        self.first_samples = np.array([phase.first_sample for phase in phases])

    def place(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(corpus, number within that corpus) of samples `indices`."""
        phases = np.searchsorted(self.first_samples, indices, side="right") - 1
        corpus, number = np.empty_like(indices), np.empty_like(indices)
        for phase in np.unique(phases).tolist():
            here = phases == phase
            corpus[here], number[here] = self.schedules[phase].place(indices[here] - self.first_samples[phase])
        return corpus, number

    def given(self, samples: int) -> np.ndarray:
        """(corpora,) how many of the first `samples` samples came from each."""
        phase = int(np.searchsorted(self.first_samples, samples, side="right")) - 1
        return self.schedules[phase].given(samples - int(self.first_samples[phase]))


class _Schedule:
    """A phase: samples counted from its beginning, behind `before` samples of each corpus, of which each was owed
    `owed`."""

    def __init__(self, before: np.ndarray, weights: Sequence[Fraction], owed: Sequence[Fraction], samples: int | None):
        self.before = before
        self.chosen, self.start = _deadlines_first(weights, owed, samples)
        self.cycle = len(self.chosen) - self.start
        ones = self.chosen[:, None] == np.arange(len(weights))
        self.counts = np.concatenate((np.zeros((1, len(weights)), np.int64), np.cumsum(ones, axis=0)))

    def place(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rounds, within = self._within(samples)
        corpus = self.chosen[within]
        cycle = self.counts[-1] - self.counts[self.start]
        return corpus, self.before[corpus] + rounds * cycle[corpus] + self.counts[within, corpus]

    def given(self, samples: int) -> np.ndarray:
        rounds, within = self._within(np.asarray(samples))
        return self.before + rounds * (self.counts[-1] - self.counts[self.start]) + self.counts[within]

    def _within(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How often the cycle has gone round, and the place in `chosen`."""
        if not self.cycle:
            return np.zeros_like(samples), samples
        rounds = np.maximum(0, (samples - self.start) // self.cycle)
        return rounds, samples - rounds * self.cycle


def _deadlines_first(
    weights: Sequence[Fraction], owed: Sequence[Fraction], samples: int | None
) -> tuple[np.ndarray, int]:
    """The corpus of each sample, and from where on it repeats for ever; not at all where `samples` are fewer than that.

    The k-th sample of a corpus may come where its share exceeds k - 1, and must have come before its share exceeds k.
    """
    period = lcm(*(weight.denominator for weight in weights))
    unit = lcm(period, *(debt.denominator for debt in owed))  # integers are faster than fractions
    rates, debts = ([int(part * unit) for part in parts] for parts in (weights, owed))

    def release(corpus: int, k: int) -> int:
        """The first sample t with owed + (t + 1)·weight > k - 1."""
        return ((k - 1) * unit - debts[corpus]) // rates[corpus]

    def deadline(corpus: int, k: int) -> int:
        """The last sample t with owed + t·weight < k."""
        return -((debts[corpus] - k * unit) // rates[corpus]) - 1

    waiting = [(release(corpus, 1), corpus, 1) for corpus, rate in enumerate(rates) if rate]
    ready: list[tuple[int, int, int]] = []
    heapq.heapify(waiting)
    chosen: list[int] = []
    given = [0] * len(rates)
    seen: dict[tuple[int, ...], int] = {}
    while True:
        if len(chosen) % period == 0:
            lead = tuple(count * unit - len(chosen) * rate for count, rate in zip(given, rates))
            if lead in seen:
                return np.array(chosen, dtype=np.int64), seen[lead]
            seen[lead] = len(chosen)
        if len(chosen) == samples:
            return np.array(chosen, dtype=np.int64), samples
        while waiting and (
            waiting[0][0] <= len(chosen) or not ready
        ):  # none is ready where several corpora stop at once
            _, corpus, k = heapq.heappop(waiting)
            heapq.heappush(ready, (deadline(corpus, k), corpus, k))
        _, corpus, k = heapq.heappop(ready)
        chosen.append(corpus)
        given[corpus] += 1
        heapq.heappush(waiting, (release(corpus, k + 1), corpus, k + 1))


def phases_of(weights: Any, names: Sequence[str], sequence_length: int) -> list[Phase]:
    """The phases that `data.weights` tells of: {name: weight, …}, or a list of such with `from_tokens`.

    Raises ConfigError for unknown or missing names, weights that are no shares, phases out of order.
    """
    listed = (
        weights
        if isinstance(weights, list)
        else [{"from_tokens": 0, **weights}]
        if isinstance(weights, Mapping)
        else []
    )
    if not listed or not all(isinstance(phase, Mapping) for phase in listed):
        raise ConfigError(
            f"data.weights={weights}: expected a share of the tokens for each corpus, as "
            f"data.weights='{{{', '.join(f'{name}: 1' for name in names)}}}'"
        )
    phases = []
    for phase in listed:
        tokens = phase.get("from_tokens", None)
        if (
            isinstance(tokens, bool)
            or not isinstance(tokens, (int, float))
            or not 0 <= tokens <= MOST_TOKENS
            or tokens != int(tokens)
        ):
            raise ConfigError(
                f"data.weights: from_tokens={tokens}: expected the number of tokens after which these weights hold, a "
                f"whole one of at most {MOST_TOKENS:.0e}"
            )
        shares = {name: share for name, share in phase.items() if name != "from_tokens"}
        if unknown := sorted(map(str, set(shares) - set(names))):
            raise ConfigError(f"data.weights: {unknown[0]} is none of data.corpora ({', '.join(names)})")
        fractions = [_share(name, shares.get(name, 0)) for name in names]
        if not (total := sum(fractions)):
            raise ConfigError(f"data.weights={shares}: all are 0; expected a share of the tokens for each corpus")
        weights = _rounded([part / total for part in fractions])
        for name, part, weight in zip(names, fractions, weights):
            if part and not weight:
                raise ConfigError(
                    f"data.weights.{name}={shares[name]}: of all weights less than one in {DECIMALS:,}, so it would "
                    "give "
                    f"nothing; type {name}: 0 to leave it out, or a larger weight"
                )
        phases.append(Phase(ceil(Fraction(int(tokens), sequence_length)), weights))
    firsts = [phase.first_sample for phase in phases]
    if firsts[0] != 0 or any(a >= b for a, b in pairwise(firsts)):
        raise ConfigError(
            "data.weights: the first phase's from_tokens must be 0, and each later one's at least "
            f"training.sequence_length={sequence_length} larger"
        )
    if missing := [name for name in names if not any(name in phase for phase in listed)]:
        raise ConfigError(
            f"data.weights: {missing[0]} has none; type {missing[0]}: 1 among them, as any share of the tokens, or "
            f"{missing[0]}: 0 to read nothing of it"
        )
    return phases


def _share(name: str, share: Any) -> Fraction:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= LARGEST_WEIGHT:
        raise ConfigError(f"data.weights.{name}={shown(share)}: expected a number of at least 0")
    return Fraction(str(share))


def _rounded(weights: list[Fraction]) -> tuple[Fraction, ...]:
    """The weights as they are where their common denominator is small enough, else to five decimals, summing to 1."""
    if lcm(*(weight.denominator for weight in weights)) <= DECIMALS:
        return tuple(weights)
    units = [weight * DECIMALS for weight in weights]
    whole = [int(unit) for unit in units]
    for corpus in sorted(range(len(units)), key=lambda corpus: whole[corpus] - units[corpus])[: DECIMALS - sum(whole)]:
        whole[corpus] += 1
    return tuple(Fraction(unit, DECIMALS) for unit in whole)
