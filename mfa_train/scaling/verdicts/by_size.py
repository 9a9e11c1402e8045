"""Whether the difference of two variants changes with the size, and how much it varies from seed to seed within a size.

Of units (a size and seed each) two things vary: sizes differ, which no further seed makes smaller, and so do seeds. The
one-way F test over the sizes tells them apart. It takes the spread within a size for one and the same at all sizes.
"""

from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.laws.bootstrap import ROUNDING
from mfa_train.scaling.verdicts.cells import degrees_of_freedom, pooled_deviation
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, SHOWN


def by_size(differences: np.ndarray, sizes: list[str]) -> dict:
    """Of one difference a unit, and the unit's size:

    `by_size`: a row for each size, in the order in which they come: its mean `difference`, its `seeds`, and whether all
    of them have one `sign` (-1 or 1, else 0; of one seed 0).
    `within_sizes`: the standard deviation within a size, pooled, and its degrees of freedom; None where no size has two
    seeds.
    `p_sizes`: of the F test; None of one size, and where nothing varies or nothing says how much seeds do.
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for size, value in zip(sizes, differences):
        groups[size].append(float(value))
    values = [np.array(own) for own in groups.values()]
    free = degrees_of_freedom(values)
    deviation = pooled_deviation(values) if free else None
    return {
        "by_size": [
            {"size": size, "difference": float(np.mean(own)), "seeds": len(own), "sign": _sign(own)}
            for size, own in groups.items()
        ],
        "within_sizes": None if deviation is None else {"deviation": deviation, "free": free},
        "p_sizes": None if deviation is None else _p(values, deviation, free),
    }


def sizes_differ(verdict: dict) -> bool:
    """Whether it is shown that the difference changes with the size; not corrected for the number of pairs."""
    return verdict["p_sizes"] is not None and verdict["p_sizes"] < SHOWN


def order_changes(verdict: dict) -> bool:
    """Whether, beside that, one size has the one ahead with every seed and another size the other."""
    return sizes_differ(verdict) and {-1, 1} <= {row["sign"] for row in verdict["by_size"]}


def _sign(values: list[float]) -> int:
    signs = {int(np.sign(value)) for value in values}
    return signs.pop() if len(values) >= LEAST_SEEDS and len(signs) == 1 else 0


def _p(groups: list[np.ndarray], deviation: float, free: int) -> float | None:
    if len(groups) < 2:
        return None
    mean = np.concatenate(groups).mean()
    between = float(np.sqrt(sum(len(own) * (own.mean() - mean) ** 2 for own in groups) / (len(groups) - 1)))
    if deviation <= ROUNDING:
        return 0.0 if between > ROUNDING else None
    return float(stats.f.sf((between / deviation) ** 2, len(groups) - 1, free))
