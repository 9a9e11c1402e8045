"""What a run's loss would have been at other tokens, by the runs of its variant, size, seed and data: no law is needed.

Between token budgets the loss is interpolated over log tokens (PCHIP: Fritsch and Carlson 1980), and by as little as
`BEYOND` carried on past them in a straight line. Two budgets would give a line alone, above the loss between them
whatever the seed; so there are three and more, and the error is that of the third order.
"""

from collections import defaultdict

import numpy as np
from scipy.interpolate import PchipInterpolator

from mfa_train.scaling.study.runs import FLOPS_WITHIN, TOKENS_WITHIN, Run
from mfa_train.scaling.verdicts.known import flops_of, loss_of, tokens_of

BEYOND = 0.05
"""In log tokens. There the error is that of a curvature over a twentieth: small beside what seeds do."""
LEAST_BUDGETS = 3


class Measured:
    """Loss over tokens of one variant's runs: a curve for each size, seed and data order with three budgets and more.

    Runs of one budget (within 1%) count as their mean.
    """

    def __init__(self, runs: list[Run]):
        series: dict[tuple, list[Run]] = defaultdict(list)
        for run in runs:
            if run.order is not None:
                series[_series(run)].append(run)
        budgets = {key: _budgets(own) for key, own in series.items()}
        self._curves = {
            key: PchipInterpolator(*zip(*found)) for key, found in budgets.items() if len(found) >= LEAST_BUDGETS
        }

    def loss(self, run: Run, tokens: float) -> float | None:
        """Of the run, had it been trained on so many; None where there is no curve or it does not reach there."""
        if (curve := self._curves.get(_series(run))) is None:
            return None
        at, (least, most) = np.log(tokens), curve.x[[0, -1]]
        if not least - BEYOND <= at <= most + BEYOND:
            return None
        inside = np.clip(at, least, most)
        return float(curve(inside) + curve(inside, 1) * (at - inside))

    def tokens(self, run: Run, loss: float) -> float | None:
        """That the run needs for the loss; None where there is no curve, or it has the loss nowhere or more than
        once."""
        if (curve := self._curves.get(_series(run))) is None:
            return None
        found = list(curve.solve(loss, extrapolate=False))
        for end, sign in ((curve.x[0], -1), (curve.x[-1], 1)):
            if (slope := curve(end, 1)) and 0 < sign * (past := (loss - curve(end)) / slope) <= BEYOND:
                found.append(end + past)
        if (
            not found or np.isnan(found).any() or np.ptp(found) > 1e-9
        ):  # NaN: a level stretch; a budget may be found twice
            return None
        return float(np.exp(found[0]))


def difference_at_equal_flops(one: Run, other: Run, of_a: Measured, of_b: Measured) -> float | None:
    """The loss of `one` less that of `other`, the dearer of them on fewer tokens or else the cheaper on more."""
    ratio = flops_of(one) / flops_of(other)
    if abs(np.log(ratio)) < FLOPS_WITHIN:
        return loss_of(one) - loss_of(other)
    for measured, run, factor in sorted(((of_a, one, 1 / ratio), (of_b, other, ratio)), key=lambda move: move[2]):
        if (loss := measured.loss(run, tokens_of(run) * factor)) is not None:
            return loss - loss_of(other) if run is one else loss_of(one) - loss
    return None


def tokens_at_equal_loss(one: Run, other: Run, of_a: Measured, of_b: Measured) -> float | None:
    """What `other` needs, of the tokens of `one`, for one loss: that of `one`, or else that of `other`."""
    if (tokens := of_b.tokens(other, loss_of(one))) is not None:
        return tokens / tokens_of(one)
    if (tokens := of_a.tokens(one, loss_of(other))) is not None:
        return tokens_of(other) / tokens
    return None


def _budgets(runs: list[Run]) -> list[tuple[float, float]]:
    """(log tokens, loss), rising."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=tokens_of):
        if groups and tokens_of(run) <= tokens_of(groups[-1][0]) * (1 + TOKENS_WITHIN):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [(float(np.log(tokens_of(group[0]))), float(np.mean([loss_of(run) for run in group]))) for group in groups]


def _series(run: Run) -> tuple:
    return run.order, run.size, run.params, run.evaluated_on
