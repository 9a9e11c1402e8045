"""What a run's loss would have been at other tokens, by runs that differ from it in nothing else: no law is needed.

Between token budgets the loss is interpolated over log tokens (PCHIP: Fritsch and Carlson 1980), and by as little as
`BEYOND` carried on past them.
"""

from collections import defaultdict

import numpy as np
from scipy.interpolate import PchipInterpolator

from mfa_train.scaling.runs import Run

BEYOND = 0.05
"""In log tokens. There the error is that of a curvature over a twentieth: small beside what seeds do."""


class Measured:
    """Loss over tokens of one variant's runs, a curve for each size, seed and data order that has two budgets and more."""

    def __init__(self, runs: list[Run]):
        budgets: dict[tuple, dict[float, float]] = defaultdict(dict)
        for run in runs:
            if run.order is not None:
                budgets[_series(run)][np.log(run.tokens)] = run.loss
        self._curves = {key: PchipInterpolator(*zip(*sorted(found.items()))) for key, found in budgets.items() if len(found) > 1}

    def loss(self, run: Run, tokens: float) -> float | None:
        """Of the run, had it been trained on so many; None where there is no curve or it does not reach there."""
        curve, at = self._curves.get(_series(run)), np.log(tokens)
        return float(curve(at)) if curve is not None and _within(curve, at) else None

    def tokens(self, run: Run, loss: float) -> float | None:
        """That the run needs for the loss; None where there is no curve, or it has the loss nowhere or more than once."""
        curve = self._curves.get(_series(run))
        found = [] if curve is None else [at for at in curve.solve(loss) if _within(curve, at)]
        return float(np.exp(found[0])) if len(found) == 1 else None


def _within(curve: PchipInterpolator, at: float) -> bool:
    return bool(curve.x[0] - BEYOND <= at <= curve.x[-1] + BEYOND)


def _series(run: Run) -> tuple:
    return run.order, run.size, run.params, run.evaluated_on
