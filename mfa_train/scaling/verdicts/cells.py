"""Losses of variants side by side: a cell is a size and a token budget, a row a variant's mean loss in it.

How much a loss varies with the seed is pooled over the sizes, each at its budget of the same rank, for two seeds of one
size alone would say next to nothing: the squares and the degrees of freedom of all are summed. Where that leaves fewer
than `LEAST_FREE` degrees of freedom, the variants are pooled as well. They share their seeds, and much of what a seed
does, so that adds none but those of seeds that the variant itself lacks: counted are sizes and seeds alone.
"""

from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.laws.bootstrap import CONFIDENCE
from mfa_train.scaling.study.runs import TOKENS_WITHIN, Run
from mfa_train.scaling.study.size_names import count_name
from mfa_train.scaling.verdicts.known import loss_of, params_of, tokens_of

Cells = dict[tuple[str, float], dict[str, list[Run]]]
LEAST_FREE = 4
"""Degrees of freedom: of fewer, Student's interval is mostly its own quantile."""


def cells_of(runs: list[Run]) -> Cells:
    """{(size, tokens): {variant: runs}}, smallest first. Of runs that tell no size it is the number of parameters."""
    cells: dict[tuple[str, float], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    budget: dict[str, float] = {}
    for run in sorted(runs, key=tokens_of):
        size = run.size or count_name(params_of(run))
        if tokens_of(run) > budget.get(size, 0) * (1 + TOKENS_WITHIN):
            budget[size] = tokens_of(run)
        cells[size, budget[size]][run.variant].append(run)
    return dict(sorted(cells.items(), key=lambda cell: (_params(cell[1]), cell[0][1])))


def _params(members: dict[str, list[Run]]) -> float:
    return float(np.mean([params_of(run) for runs in members.values() for run in runs]))


def measured_rows(cells: Cells) -> list[dict]:
    """Of every cell a row for each variant with its losses as measured, before `set_intervals`. Whatever tells a loss
    with its interval pools over these, so that it is one and the same everywhere."""
    return [
        {
            "accounting": "parameters",
            "variant": name,
            "size": size,
            "cell_tokens": tokens,
            "by_seed": by_seed(own, np.array([loss_of(run) for run in own])),
        }
        for (size, tokens), members in cells.items()
        for name, own in members.items()
    ]


def by_seed(runs: list[Run], losses: np.ndarray) -> dict[str, float]:
    """The mean loss of each seed; a run that tells none is one by itself."""
    found: dict[str, list[float]] = defaultdict(list)
    for run, loss in zip(runs, losses):
        found[run.name if run.seed is None else str(run.seed)].append(float(loss))
    return {seed: float(np.mean(own)) for seed, own in found.items()}


def ranks_of_budgets(rows: list[dict]) -> dict[tuple[str, float], int]:
    """Of each (size, tokens): 0 for the largest budget of its size, 1 for the next."""
    budgets: dict[str, set[float]] = defaultdict(set)
    for row in rows:
        budgets[row["size"]].add(row["cell_tokens"])
    return {
        (size, tokens): rank for size, own in budgets.items() for rank, tokens in enumerate(sorted(own, reverse=True))
    }


def set_intervals(rows: list[dict]) -> None:
    """Sets each row's `loss` from its `by_seed`, with Student's interval by the pooled spread, and `spread`: that
    standard deviation, its degrees of freedom, and what it was pooled over. Without repeated seeds there is neither."""
    ranks = ranks_of_budgets(rows)
    of_variant: dict[tuple, list[np.ndarray]] = defaultdict(list)
    of_all: dict[tuple, list[np.ndarray]] = defaultdict(list)
    seeds: dict[tuple, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        losses, rank = np.array(list(row["by_seed"].values())), ranks[row["size"], row["cell_tokens"]]
        of_variant[row["accounting"], rank, row["variant"]].append(losses)
        of_all[row["accounting"], rank].append(losses)
        seeds[row["accounting"], rank][row["size"]] |= row["by_seed"].keys()
    for row in rows:
        rank = ranks[row["size"], row["cell_tokens"]]
        own, over = of_variant[row["accounting"], rank, row["variant"]], "sizes"
        if (free := degrees_of_freedom(own)) < LEAST_FREE:
            own, over = of_all[row["accounting"], rank], "sizes and variants"
            distinct = sum(len(of_size) - 1 for of_size in seeds[row["accounting"], rank].values())
            free = min(degrees_of_freedom(own), distinct)
        mean = float(np.mean(list(row["by_seed"].values())))
        row["loss"], row["spread"] = {"value": mean, "low": None, "high": None}, None
        if free:
            deviation = pooled_deviation(own)
            half = float(stats.t.ppf((1 + CONFIDENCE) / 2, free)) * deviation / len(row["by_seed"]) ** 0.5
            row["loss"] = {"value": mean, "low": mean - half, "high": mean + half}
            row["spread"] = {"deviation": deviation, "free": free, "over": over}


def degrees_of_freedom(groups: list[np.ndarray]) -> int:
    """Of the spread within the groups."""
    return sum(len(group) - 1 for group in groups if len(group))


def pooled_deviation(groups: list[np.ndarray]) -> float:
    """The standard deviation within the groups; there must be degrees of freedom."""
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group))
    return float(np.sqrt(squares / degrees_of_freedom(groups)))
