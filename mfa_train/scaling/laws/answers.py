"""What a budget buys with each variant: loss, the best N and D, and how much compute the reference would need for it.

Every row holds for one accounting of compute (costs.py) and one budget, and compares with one reference variant. It is
an interval of the bootstrap's draws, in which variants trained with the same seeds move together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mfa_train.scaling.laws.bootstrap import interval
from mfa_train.scaling.laws.costs import SIX_N, CostOfN, flops_per_token
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.laws.frontier import best_loss, compute_for, optimum
from mfa_train.scaling.laws.law import Law
from mfa_train.scaling.laws.points import Point, points_of
from mfa_train.scaling.study.runs import Run

BUDGETS = 5
CURVE_POINTS = 25
BEYOND = 1.5
"""An optimum this many times outside the measured sizes is said to be extrapolated."""
PARAMETERS = ("E", "A", "alpha", "B", "beta")


@dataclass(frozen=True)
class _Fitted:
    """A variant that has a law, and of which the cost of a token is known."""

    points: list[Point]
    cost: CostOfN
    law: Law
    draws: Law

    @property
    def middle(self) -> float:
        """The geometric mean of the measured sizes."""
        return float(np.exp(np.mean(np.log([point.params for point in self.points]))))

    @property
    def spent(self) -> list[float]:
        """Compute of each run."""
        return [float(self.cost.at(point.params)) * point.tokens for point in self.points]

    def lies_outside(self, n: float, d: float) -> bool:
        """Whether `n` parameters or `d` tokens are far from all that was measured."""
        return any(
            not min(values) / BEYOND <= at <= max(values) * BEYOND
            for at, values in (
                (n, [point.params for point in self.points]),
                (d, [point.tokens for point in self.points]),
            )
        )


def at_budgets(
    variants: dict[str, list[Run]],
    fits: dict[str, VariantFit],
    reference: str,
    accounting: str,
    wanted: tuple[float, ...],
) -> list[dict]:
    """A row for each budget and fitted variant. Budgets are those `wanted`, or spread over what all variants were
    measured at. `difference` is between the best each can do with the compute, `difference_at_same_shape` at equal
    parameters and tokens, those that are best for the reference."""
    fitted = _fitted(variants, fits, accounting)
    if not fitted:
        return []
    return [
        _row(accounting, float(compute), name, one, reference, fitted.get(reference))
        for compute in wanted or np.geomspace(*_common_range(fitted), BUDGETS)
        for name, one in fitted.items()
    ]


def frontier_curves(variants: dict[str, list[Run]], fits: dict[str, VariantFit], accounting: str) -> list[dict]:
    """L(C) of each fitted variant with its interval, over the compute it was measured at."""
    curves = []
    for name, one in _fitted(variants, fits, accounting).items():
        computes = np.geomspace(min(one.spent), max(one.spent), CURVE_POINTS)
        losses = best_loss(one.law, one.cost, computes, one.middle)
        drawn = best_loss(_as_columns(one.draws), one.cost, computes, one.middle)
        curves.append(
            {
                "accounting": accounting,
                "variant": name,
                "points": [
                    {"compute": float(compute), **interval(loss, drawn[:, index])}
                    for index, (compute, loss) in enumerate(zip(computes, losses))
                ],
            }
        )
    return curves


def parameter_differences(fits: dict[str, VariantFit], reference: str) -> list[dict]:
    """E, A, alpha, B, beta of each variant less those of the reference, with intervals."""
    base = fits[reference]
    if base.law is None:
        return []
    return [
        {"variant": name, "reference": reference}
        | {
            key: interval(
                getattr(fit.law, key) - getattr(base.law, key), getattr(fit.draws, key) - getattr(base.draws, key)
            )
            for key in PARAMETERS
        }
        for name, fit in fits.items()
        if name != reference and fit.law is not None
    ]


def _row(accounting: str, compute: float, name: str, one: _Fitted, reference: str, base: _Fitted | None) -> dict:
    """One variant at one budget, held against `base`, the reference, where that has a law and is another."""
    loss, drawn = (best_loss(law, one.cost, compute, one.middle) for law in (one.law, one.draws))
    (n, d), (drawn_n, drawn_d) = (optimum(law, one.cost, compute, one.middle) for law in (one.law, one.draws))
    row = {
        "accounting": accounting,
        "compute": compute,
        "variant": name,
        "reference": reference,
        "loss": interval(loss, drawn),
        "difference": None,
        "difference_at_same_shape": None,
        "multiplier": None,
        "params": interval(n, drawn_n),
        "tokens": interval(d, drawn_d),
        "extrapolated": one.lies_outside(float(n), float(d)),
    }
    if base is None or name == reference:
        return row
    best, drawn_best = (best_loss(law, base.cost, compute, base.middle) for law in (base.law, base.draws))
    shape, drawn_shape = (optimum(law, base.cost, compute, base.middle) for law in (base.law, base.draws))
    return row | {
        "difference": interval(loss - best, drawn - drawn_best),
        "difference_at_same_shape": interval(
            one.law(*shape) - base.law(*shape), one.draws(*drawn_shape) - base.draws(*drawn_shape)
        ),
        "multiplier": interval(
            compute_for(base.law, base.cost, loss, base.middle) / compute,
            compute_for(base.draws, base.cost, drawn, base.middle) / compute,
        ),
    }


def _fitted(variants: dict[str, list[Run]], fits: dict[str, VariantFit], accounting: str) -> dict[str, _Fitted]:
    """The variants that have a law, and whose FLOPs are known where the accounting counts them."""
    found = {}
    for name, runs in variants.items():
        points, law, draws = points_of(runs), fits[name].law, fits[name].draws
        cost = SIX_N if accounting == "parameters" else flops_per_token(points)
        if cost is not None and law is not None and draws is not None:
            found[name] = _Fitted(points, cost, law, draws)
    return found


def _as_columns(draws: Law) -> Law:
    """The draws as columns, to be broadcast against many budgets."""
    return Law(*(np.asarray(getattr(draws, key))[:, None] for key in PARAMETERS))


def _common_range(fitted: dict[str, _Fitted]) -> tuple[float, float]:
    """The range of compute that all variants were measured at; that any was, where these have none in common."""
    spent: Sequence[list[float]] = [one.spent for one in fitted.values()]
    low, high = max(map(min, spent)), min(map(max, spent))
    return (low, high) if low < high else (min(map(min, spent)), max(map(max, spent)))
