"""Scores of two variants on the same documents, held against each other document by document.

Two things vary. Documents do: others of the kind would have given another mean. And seeds do: another seed of either
variant would have answered otherwise. By their documents alone two *runs* can be told apart, never two variants.

- *One seed*: the differences of the documents are independent of each other. Of answers that are right or wrong
  McNemar's exact test (the binomial test of the documents that one run alone answers), else the paired t-test. The
  interval is Student's in either case.
- *Several seeds*, paired by seed: a mean over seeds of each document, and a mean over documents of each seed. The
  variance of the grand mean is at most that of the former over the documents plus that of the latter over the seeds
  (what is neither is counted in both). The interval is sqrt(t_d² V_d + t_s² V_s) either way, each part with Student's
  quantile of its own degrees of freedom: Banerjee (1960, Sankhya 22), who shows that it holds the truth at least as
  often as stated, whatever the parts' shares. How much seeds do is pooled over the sizes, as everywhere (cells.py).
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit
from scipy.stats import binomtest

from mfa_train.scaling.laws.bootstrap import CONFIDENCE, ROUNDING
from mfa_train.scaling.verdicts.cells import degrees_of_freedom, pooled_deviation
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS

LEAST_DOCUMENTS = 20
"""Of fewer, nothing is told: Student's test leans on their number where differences are skewed."""
MCNEMAR, PAIRED_T, BOTH = "McNemar, exact", "paired t", "documents and seeds"
LEAST_LOG_P = -345.0
"""About 1e-150: less is told as that."""


class Apart(NamedTuple):
    """The differences of two variants in one cell, by what varied."""

    mean: float
    documents: int
    of_documents: float
    """The variance of the mean that is the documents'."""
    by_seed: np.ndarray
    """(seeds,): mean differences."""
    p_mcnemar: float | None
    """Of one seed's right and wrong answers."""


def apart(differences: np.ndarray, right_or_wrong: bool) -> Apart:
    """Of (seeds, documents)."""
    by_document = differences.mean(0)
    documents = len(by_document)
    spread = float(by_document.var(ddof=1)) / documents if documents > 1 else 0.0
    alone = mcnemar(differences[0]) if right_or_wrong and len(differences) == 1 else None
    return Apart(float(by_document.mean()), documents, spread, differences.mean(1), alone)


def mcnemar(differences: np.ndarray) -> float:
    """The exact p of differences that are -1, 0 or 1 (McNemar 1947; Edwards 1948)."""
    more, less = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(more, more + less).pvalue) if more + less else 1.0


def held_apart(found: Apart, of_sizes: list[np.ndarray]) -> dict:
    """{difference, p, test}. `of_sizes` are the mean differences of the seeds at each size, over which what seeds do is
    pooled. No interval and no p of too few documents, and where nothing varies."""
    mean = found.mean
    nothing = {"difference": {"value": mean, "low": None, "high": None}, "p": None, "test": None}
    if found.documents < LEAST_DOCUMENTS:
        return nothing
    parts, test = [(found.of_documents, found.documents - 1)], PAIRED_T if found.p_mcnemar is None else MCNEMAR
    if len(found.by_seed) >= LEAST_SEEDS:
        deviation, test = pooled_deviation(of_sizes), BOTH
        if deviation <= ROUNDING:
            return nothing
        parts.append((deviation**2 / len(found.by_seed), degrees_of_freedom(of_sizes)))
    if sum(variance for variance, _ in parts) ** 0.5 <= ROUNDING:
        return nothing
    half = _half(parts, (1 - CONFIDENCE) / 2)
    p = _p(parts, abs(mean)) if found.p_mcnemar is None else found.p_mcnemar
    return {"difference": {"value": mean, "low": mean - half, "high": mean + half}, "p": p, "test": test}


def _half(parts: list[tuple[float, int]], tail: float) -> float:
    """Of the interval that leaves out so much on either side, of (variance, degrees of freedom)."""
    return sum(float(stdtrit(free, tail)) ** 2 * variance for variance, free in parts) ** 0.5


def _p(parts: list[tuple[float, int]], mean: float) -> float:
    """Of the widest interval that leaves out zero, two-sided."""
    if mean == 0:
        return 1.0

    def beyond(log_p: float) -> float:
        return _half(parts, float(np.exp(log_p)) / 2) - mean

    log_p = LEAST_LOG_P if beyond(LEAST_LOG_P) < 0 else brentq(beyond, LEAST_LOG_P, 0.0, xtol=1e-9)
    return float(np.exp(log_p))
