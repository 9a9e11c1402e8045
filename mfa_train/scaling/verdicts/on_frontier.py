"""Which variants are on the KV frontier: shown to be, shown not to be, or neither.

In a cell each two variants are held against each other over the seeds that both have: Student's test of the mean
difference, how much it varies with the seed pooled over the sizes as in cells.py, p corrected for the pairs of the cell
(Holm 1979). A variant is *on* the frontier where every other with a cache no larger is shown to have a higher loss (or
there is none), *off* where one of them is shown to have a lower loss, and else *not shown*.
"""

import itertools
from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.laws.bootstrap import ROUNDING
from mfa_train.scaling.verdicts.cells import degrees_of_freedom, pooled_deviation, ranks_of_budgets
from mfa_train.scaling.verdicts.enough import SHOWN
from mfa_train.scaling.verdicts.holm import corrected

ON, OFF, NOT_SHOWN = "shown to be on it", "shown to be off it", "not shown"


def mark_frontier(rows: list[dict]) -> None:
    """Sets each row's `frontier` (ON, OFF or NOT_SHOWN), and `on_frontier`, which older readers know: True where
    it is not shown to be off, None where another's loss is lower and too few seeds could show it."""
    cells: dict[tuple, dict[str, dict]] = defaultdict(dict)
    ranks = ranks_of_budgets(rows)
    for row in rows:
        cells[row["accounting"], row["size"], row["cell_tokens"]][row["variant"]] = row
    of_sizes: dict[tuple, list[np.ndarray]] = defaultdict(list)
    for (accounting, *cell), members in cells.items():
        for one, other in itertools.combinations(sorted(members), 2):
            of_sizes[accounting, ranks[*cell], one, other].append(_apart(members[one], members[other]))
    for (accounting, *cell), members in cells.items():
        pairs = list(itertools.combinations(sorted(members), 2))
        p = {
            pair: _p(_apart(members[pair[0]], members[pair[1]]), of_sizes[accounting, ranks[*cell], *pair])
            for pair in pairs
        }
        p_holm = corrected({pair: value for pair, value in p.items() if value is not None})
        shown = {pair for pair, value in p_holm.items() if value < SHOWN}
        for name, row in members.items():
            rivals = [
                other
                for other, theirs in members.items()
                if other != name and theirs["kv_bytes_per_token"] <= row["kv_bytes_per_token"]
            ]
            lower = [other for other in rivals if _mean_apart(members[other], row) < 0]
            told = {other for other in rivals if tuple(sorted((name, other))) in shown}
            row["frontier"] = OFF if told & set(lower) else ON if told == set(rivals) else NOT_SHOWN
            untested = any(p[min(name, other), max(name, other)] is None for other in lower)
            row["on_frontier"] = False if row["frontier"] == OFF else None if untested else True


def _apart(one: dict, other: dict) -> np.ndarray:
    """The loss of `one` less that of `other`, of each seed that both have."""
    shared = sorted(one["by_seed"].keys() & other["by_seed"].keys())
    return np.array([one["by_seed"][seed] - other["by_seed"][seed] for seed in shared])


def _mean_apart(one: dict, other: dict) -> float:
    """Over the seeds that both have, else of their means."""
    values = _apart(one, other)
    return float(values.mean()) if len(values) else one["loss"]["value"] - other["loss"]["value"]


def _p(values: np.ndarray, of_sizes: list[np.ndarray]) -> float | None:
    """Two-sided. None where nothing can be shown: fewer than two seeds are shared here, or every difference is the
    same."""
    if len(values) < 2:
        return None
    error = pooled_deviation(of_sizes) / np.sqrt(len(values))
    return float(2 * stats.t.sf(abs(values.mean()) / error, degrees_of_freedom(of_sizes))) if error > ROUNDING else None
