"""What a budget buys with each variant: loss, the best N and D, and how much compute the reference would need for it.

Every row holds for one accounting of compute (costs.py) and one budget, and compares with one reference variant. It is
an interval of the bootstrap's draws, in which variants trained with the same seeds move together.
"""

import numpy as np

from mfa_train.scaling.laws.bootstrap import interval
from mfa_train.scaling.laws.costs import SIX_N, CostOfN, flops_per_token
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.laws.frontier import best_loss, compute_for, optimum
from mfa_train.scaling.laws.law import Law
from mfa_train.scaling.study.runs import Run

BUDGETS = 5
CURVE_POINTS = 25
BEYOND = 1.5
"""An optimum this many times outside the measured sizes is told to be extrapolated."""


def costs_of(variants: dict[str, list[Run]], accounting: str) -> dict[str, CostOfN]:
    """FLOPs per token of each variant for which they are known."""
    costs = {name: SIX_N if accounting == "parameters" else flops_per_token(runs) for name, runs in variants.items()}
    return {name: cost for name, cost in costs.items() if cost is not None}


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
    costs = costs_of(_fitted(variants, fits), accounting)
    if not costs:
        return []
    low, high = _common_range(variants, costs)
    rows = []
    for compute in wanted or np.geomspace(low, high, BUDGETS):
        for name, cost in costs.items():
            law, draws, start = fits[name].law, fits[name].draws, _middle(variants[name])
            loss, drawn = best_loss(law, cost, compute, start), best_loss(draws, cost, compute, start)
            (n, d), (many_n, many_d) = optimum(law, cost, compute, start), optimum(draws, cost, compute, start)
            row = {
                "accounting": accounting,
                "compute": float(compute),
                "variant": name,
                "reference": reference,
                "loss": interval(loss, drawn),
                "difference": None,
                "difference_at_same_shape": None,
                "multiplier": None,
                "params": interval(n, many_n),
                "tokens": interval(d, many_d),
                "extrapolated": _outside(variants[name], float(n), float(d)),
            }
            if name != reference and reference in costs:
                base = fits[reference], costs[reference], _middle(variants[reference])
                row["difference"] = interval(
                    loss - best_loss(base[0].law, base[1], compute, base[2]),
                    drawn - best_loss(base[0].draws, base[1], compute, base[2]),
                )
                at, many_at = (optimum(each, base[1], compute, base[2]) for each in (base[0].law, base[0].draws))
                row["difference_at_same_shape"] = interval(
                    law(*at) - base[0].law(*at), draws(*many_at) - base[0].draws(*many_at)
                )
                row["multiplier"] = interval(
                    compute_for(base[0].law, base[1], loss, base[2]) / compute,
                    compute_for(base[0].draws, base[1], drawn, base[2]) / compute,
                )
            rows.append(row)
    return rows


def frontier_curves(variants: dict[str, list[Run]], fits: dict[str, VariantFit], accounting: str) -> list[dict]:
    """L(C) of each fitted variant with its interval, over the compute it was measured at."""
    curves = []
    for name, cost in costs_of(_fitted(variants, fits), accounting).items():
        spent = _spent(variants[name], cost)
        computes, start = np.geomspace(min(spent), max(spent), CURVE_POINTS), _middle(variants[name])
        losses = best_loss(fits[name].law, cost, computes, start)
        drawn = best_loss(_column(fits[name]), cost, computes, start)
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
            for key in ("E", "A", "alpha", "B", "beta")
        }
        for name, fit in fits.items()
        if name != reference and fit.law is not None
    ]


def _fitted(variants: dict[str, list[Run]], fits: dict[str, VariantFit]) -> dict[str, list[Run]]:
    return {name: runs for name, runs in variants.items() if fits[name].law is not None}


def _column(fit: VariantFit) -> Law:
    """The draws as columns, to be broadcast against many budgets."""
    return Law(*(value[:, None] for value in vars(fit.draws).values()))


def _common_range(variants: dict[str, list[Run]], costs: dict[str, CostOfN]) -> tuple[float, float]:
    spent = [_spent(variants[name], cost) for name, cost in costs.items()]
    low, high = max(map(min, spent)), min(map(max, spent))
    return (low, high) if low < high else (min(map(min, spent)), max(map(max, spent)))


def _spent(runs: list[Run], cost: CostOfN) -> list[float]:
    return [float(cost.at(run.params)) * run.tokens for run in runs]


def _middle(runs: list[Run]) -> float:
    return float(np.exp(np.mean(np.log([run.params for run in runs]))))


def _outside(runs: list[Run], n: float, d: float) -> bool:
    return any(
        not min(values) / BEYOND <= at <= max(values) * BEYOND
        for at, values in ((n, [run.params for run in runs]), (d, [run.tokens for run in runs]))
    )
