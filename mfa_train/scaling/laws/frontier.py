"""The best a law gives for an amount of compute, and the compute it needs for a loss.

With a cost of c(N) FLOPs per token the loss under c(N)·D = C is least where the marginal gains of N and D balance:
alpha·A/N^alpha = s·beta·B/D^beta, s = d log c / d log N (Hoffmann et al. 2022, equation 4, which is s = 1). Both
directions are solved along it; since s hardly changes with N, a few repetitions settle it.
"""

import numpy as np

from mfa_train.scaling.laws.costs import CostOfN
from mfa_train.scaling.laws.law import Law

ROUNDS = 12
LIMITS = 1e3, 1e16
"""Of N: no answer lies outside."""


def optimum(law: Law, cost: CostOfN, compute: np.ndarray | float, near: float) -> tuple[np.ndarray, np.ndarray]:
    """N and D of least loss for `compute`, broadcast against the law's draws; looked for from a size `near` those that
    were measured."""
    n = np.full(np.broadcast(law.alpha, compute).shape, near, dtype=float)
    for _ in range(ROUNDS):
        s = np.maximum(cost.slope(n), 0.1)
        tokens = compute / cost.at(n) * n**s  # D = tokens / N^s near n
        n = np.clip(
            (law.alpha * law.A / (s * law.beta * law.B) * tokens**law.beta) ** (1 / (law.alpha + s * law.beta)), *LIMITS
        )
    return n, compute / cost.at(n)


def best_loss(law: Law, cost: CostOfN, compute: np.ndarray | float, near: float) -> np.ndarray:
    """The loss at `optimum`'s N and D."""
    return law(*optimum(law, cost, compute, near))


def compute_for(law: Law, cost: CostOfN, loss: np.ndarray | float, near: float) -> np.ndarray:
    """Compute at which the law's best loss is `loss`; infinite where it never gets there."""
    above = np.asarray(loss - law.E)
    n = np.full(np.broadcast(law.alpha, above).shape, near, dtype=float)
    safe = np.where(above > 0, above, np.nan)
    with np.errstate(all="ignore"):
        for _ in range(ROUNDS):
            s = np.maximum(cost.slope(n), 0.1)
            n = np.clip((law.A * (1 + law.alpha / (s * law.beta)) / safe) ** (1 / law.alpha), *LIMITS)
        d = (s * law.beta * law.B * n**law.alpha / (law.alpha * law.A)) ** (1 / law.beta)
        return np.where(above > 0, cost.at(n) * d, np.inf)


def tokens_for(law: Law, n: np.ndarray | float, loss: np.ndarray | float) -> np.ndarray:
    """Tokens at which a model of `n` parameters has `loss`; infinite where it never gets there."""
    left = loss - law.E - law.A * np.power(n, -law.alpha)
    with np.errstate(all="ignore"):
        return np.where(left > 0, (law.B / np.where(left > 0, left, np.nan)) ** (1 / law.beta), np.inf)
