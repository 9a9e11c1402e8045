"""Scores on tasks: of each cell a row for each variant, task and metric, held against the reference's on the same
documents.

A pair of runs is what it is for losses (paired.py); its scores are paired where task version, shots, limit and the
documents themselves are the same (`documents_sha256`). Of a cell's runs the documents that most have are compared, the
reference's where as many have others; scores on others are told, and paired with none.

With two seeds and more that both variants have, a row is held against the reference as a variant (`of` "variants");
with one, as a run against a run (`of` "runs"): that one attention scores better than another is then not shown,
whatever its p. Each cell's questions are corrected together (Holm 1979), in families that are asked apart: a task's
compared metric (bits per byte where it has them) and what stands beside it; variants and runs.

A variant is marked best on a task where it is shown to be better than every other. Only the truly best can be marked
without an error, so that of the others some one is wrongly marked at most as often as one of them wins against it: p is
the largest of those against the others, times their number, corrected over the tasks as above.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from mfa_train.scaling.study.evaluations import Documents, Evaluation, Score
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.cells import cells_of, ranks_of_budgets
from mfa_train.scaling.verdicts.documents import Apart, apart, held_apart
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, SHOWN
from mfa_train.scaling.verdicts.holm import corrected
from mfa_train.scaling.verdicts.paired import by_key, pairs_of
from mfa_train.scaling.verdicts.said import BETTER, OPEN, WORSE

REFERENCE, NOT_PAIRED = "reference", "not paired"
VARIANTS, RUNS = "variants", "runs"
UNLIKE = {
    "task_version": "task version",
    "num_fewshot": "num_fewshot",
    "limit": "limit",
    "documents": "number of documents",
    "sha256": "set of documents",
}
"""What is said to be another, the first that is."""

Kind = tuple[Documents, tuple[tuple[str, bool, bool], ...]]
"""What scores must share to be paired: documents, and metrics with their direction."""


class _Cell(NamedTuple):
    size: str
    tokens: float
    runs: dict[str, list[Run]]
    """By variant: those with scores."""
    kinds: dict[str, Kind]
    """By task: what is compared."""


def scores(runs: list[Run], reference: str) -> tuple[list[dict], list[str]]:
    """The rows, smallest cell first, and what must be said of scores that are not paired; nothing without scores."""
    cells = []
    for (size, tokens), members in cells_of(runs).items():
        scored = {name: own for name, all_of in members.items() if (own := [run for run in all_of if _has(run)])}
        if scored:
            cells.append(_Cell(size, tokens, scored, _kinds(scored, reference)))
    held = _Held(cells)
    rows = [row for cell in cells for row in _rows(cell, reference, held)]
    _correct(rows)
    _mark_best(cells, rows, held)
    return rows, _unlike(cells)


def _has(run: Run) -> bool:
    return bool(run.evaluations.by_task)


def _kind(evaluation: Evaluation) -> Kind:
    metrics = ((one.metric, one.higher_is_better, one.by_document is not None) for one in evaluation.scores)
    return evaluation.documents, tuple(metrics)


def _kinds(members: dict[str, list[Run]], reference: str) -> dict[str, Kind]:
    found: dict[str, Counter[Kind]] = defaultdict(Counter)
    of_reference: set[tuple[str, Kind]] = set()
    for name, own in members.items():
        for task, evaluation in ((task, one) for run in own for task, one in run.evaluations.by_task.items()):
            found[task][_kind(evaluation)] += 1
            if name == reference:
                of_reference.add((task, _kind(evaluation)))
    return {
        task: max(kinds, key=lambda kind: (kinds[kind], (task, kind) in of_reference, repr(kind)))
        for task, kinds in sorted(found.items())
    }


def _of_kind(runs: list[Run], task: str, kind: Kind) -> list[Run]:
    return [run for run in runs if (one := run.evaluations.by_task.get(task)) and _kind(one) == kind]


def _rows(cell: _Cell, reference: str, held: "_Held") -> list[dict]:
    rows = []
    for task, kind in cell.kinds.items():
        for variant, own in cell.runs.items():
            with_task = [run for run in own if task in run.evaluations.by_task]
            if not with_task:
                continue
            paired = _of_kind(with_task, task, kind)
            kinds = Counter(_kind(run.evaluations.by_task[task]) for run in with_task)
            its = kind if paired else kinds.most_common(1)[0][0]
            for place, (metric, higher_is_better, _) in enumerate(its[1]):
                row = {
                    "size": cell.size,
                    "cell_tokens": cell.tokens,
                    "task": task,
                    "metric": metric,
                    "compared": place == 0,
                    "higher_is_better": higher_is_better,
                    "variant": variant,
                    **_mean(paired or _of_kind(with_task, task, its), task, place),
                    "documents": its[0].documents,
                    "said": REFERENCE if variant == reference else NOT_PAIRED,
                    "best": False,
                    "difference": None,
                    "of": None,
                    "shared_seeds": 0,
                    "test": None,
                    "p": None,
                    "p_holm": None,
                    "questions": 0,
                }
                if paired and variant != reference:
                    row |= held(cell, variant, reference, task, place) or {}
                rows.append(row)
    return rows


def _score(run: Run, task: str, place: int) -> Score:
    return run.evaluations.by_task[task].scores[place]


def _mean(runs: list[Run], task: str, place: int) -> dict:
    """{value, stderr, seeds}: over the seeds, the standard error with what documents and what seeds do."""
    found = [_score(run, task, place) for run in runs]
    by_seed: dict[str, list[Score]] = defaultdict(list)
    for run, score in zip(runs, found):
        by_seed[run.name if run.seed is None else str(run.seed)].append(score)
    values = np.array([np.mean([score.value for score in own]) for own in by_seed.values()])
    stderr = found[0].stderr
    if len(found) > 1:
        parts = [float(values.var(ddof=1)) / len(values)] if len(values) > 1 else []
        if found[0].by_document is not None and len(found[0].by_document) > 1:
            each = np.mean([_mean_of(own) for own in by_seed.values()], axis=0)
            parts.append(float(each.var(ddof=1)) / len(each))
        stderr = sum(parts) ** 0.5 if parts else None
    return {"value": float(values.mean()), "stderr": stderr, "seeds": len(values)}


def _mean_of(scores: list[Score]) -> np.ndarray:
    """Of each document, over runs; there must be documents."""
    return np.array([score.by_document for score in scores], dtype=np.float64).mean(axis=0)


class _Held:
    """Variants of a cell held against each other on a task; what seeds do is pooled over the sizes, each at its budget
    of the same rank."""

    def __init__(self, cells: list[_Cell]):
        ranks = ranks_of_budgets([{"size": cell.size, "cell_tokens": cell.tokens} for cell in cells])
        self.of_rank: dict[int, list[_Cell]] = defaultdict(list)
        self.rank = {(cell.size, cell.tokens): ranks[cell.size, cell.tokens] for cell in cells}
        for cell in cells:
            self.of_rank[self.rank[cell.size, cell.tokens]].append(cell)
        self.known: dict[Hashable, Apart | None] = {}

    def __call__(self, cell: _Cell, variant: str, other: str, task: str, place: int) -> dict | None:
        """`variant` less `other`; None where they have no pair with this task."""
        if (found := self._apart(cell, variant, other, task, place)) is None:
            return None
        metric = cell.kinds[task][1][place]
        of_rank = [one for one in self.of_rank[self.rank[cell.size, cell.tokens]] if task in one.kinds]
        alike = [(one, one.kinds[task][1].index(metric)) for one in of_rank if metric in one.kinds[task][1]]
        of_sizes = [self._apart(one, variant, other, task, where) for one, where in alike]
        seeds = len(found.by_seed)
        return {
            "said": OPEN,
            "of": VARIANTS if seeds >= LEAST_SEEDS else RUNS,
            "shared_seeds": seeds,
            **held_apart(found, [one.by_seed for one in of_sizes if one is not None]),
        }

    def _apart(self, cell: _Cell, variant: str, other: str, task: str, place: int) -> Apart | None:
        key = cell.size, cell.tokens, variant, other, task, place
        if key not in self.known:
            self.known[key] = _apart(cell, variant, other, task, place)
        return self.known[key]


def _apart(cell: _Cell, variant: str, other: str, task: str, place: int) -> Apart | None:
    kind = cell.kinds[task]
    by_document = kind[1][place][2]
    one, two = (by_key(_of_kind(cell.runs.get(name, []), task, kind)) for name in (variant, other))
    shared = pairs_of(one, two)
    if not shared or not by_document:
        return None
    by_seed: dict[str, list[np.ndarray]] = defaultdict(list)
    for ours, theirs in shared:
        scored = ([_score(run, task, place) for run in side] for side in (ours, theirs))
        mine, its = map(_mean_of, scored)
        by_seed[str(ours[0].seed)].append(mine - its)
    differences = np.array([np.mean(own, axis=0) for own in by_seed.values()])
    return apart(differences, bool(np.isin(differences, (-1, 0, 1)).all()) and _is_right_or_wrong(shared, task, place))


def _is_right_or_wrong(shared: list[tuple[list[Run], list[Run]]], task: str, place: int) -> bool:
    runs = [run for pair in shared for side in pair for run in side]
    return all((each := _score(run, task, place).by_document) is not None and each.dtype == np.int8 for run in runs)


def _family(row: dict) -> tuple:
    return row["size"], row["cell_tokens"], row["compared"], row["of"]


def _correct(rows: list[dict]) -> None:
    """Sets `p_holm`, of how many questions, and what is said by it."""
    families: dict[tuple, dict[int, float]] = defaultdict(dict)
    for index, row in enumerate(rows):
        if row["p"] is not None:
            families[_family(row)][index] = row["p"]
    for questions in families.values():
        for index, p in corrected(questions).items():
            row = rows[index]
            row["p_holm"], row["questions"] = p, len(questions)
            if p < SHOWN:
                row["said"] = BETTER if _is_better(row["difference"]["value"], row) else WORSE


def _is_better(difference: float, row: dict) -> bool:
    return (difference > 0) == row["higher_is_better"]


def _mark_best(cells: list[_Cell], rows: list[dict], held: _Held) -> None:
    of_task: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        of_task[row["size"], row["cell_tokens"], row["task"], row["compared"]].append(row)
    by_place = {(cell.size, cell.tokens): cell for cell in cells}
    families: dict[tuple, dict[int, float]] = defaultdict(dict)
    for (*place, _, compared), own in of_task.items():
        ordered = sorted(range(len(own)), key=lambda at: own[at]["value"] * (-1 if own[at]["higher_is_better"] else 1))
        first, others = own[ordered[0]], [own[at] for at in ordered[1:]]
        cell = by_place[*place]
        against = [held(cell, first["variant"], row["variant"], row["task"], 0 if compared else 1) for row in others]
        p = [one["p"] for one in against if one and one["of"] == VARIANTS and one["p"] is not None]
        ahead = all(one and _is_better(one["difference"]["value"], first) for one in against)
        if others and len(p) == len(others):
            families[*place, compared][id(first)] = min(1.0, max(p) * len(others)) if ahead else 1.0
    shown = {key for family in families.values() for key, p in corrected(family).items() if p < SHOWN}
    for row in rows:
        row["best"] = id(row) in shown


def _unlike(cells: list[_Cell]) -> list[str]:
    """One line for each task and what differs."""
    apart_from: dict[tuple[str, str], list[str]] = defaultdict(list)
    for cell in cells:
        for run in (run for own in cell.runs.values() for run in own):
            for task, evaluation in run.evaluations.by_task.items():
                if (mine := _kind(evaluation)) != (most := cell.kinds[task]):
                    apart_from[task, _what_differs(mine, most)].append(run.name)
    return [
        f"scores on {task} of another {what} than most runs of the size and token budget have are paired with none of "
        f"theirs ({len(names)}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for (task, what), names in apart_from.items()
    ]


def _what_differs(one: Kind, other: Kind) -> str:
    return next(
        (told for field, told in UNLIKE.items() if getattr(one[0], field) != getattr(other[0], field)),
        "set of metrics",
    )
