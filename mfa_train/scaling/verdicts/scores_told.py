"""What scores on tasks show, in sentences: of each cell which tasks show a difference, and which show none either
way."""

import math
from collections import defaultdict

from mfa_train.scaling.study.size_names import count_name
from mfa_train.scaling.verdicts.said import BETTER, OPEN, WORSE
from mfa_train.scaling.verdicts.scores import REFERENCE, RUNS, VARIANTS
from mfa_train.scaling.verdicts.sentences import MOST_NAMED, label


def scores_told(rows: list[dict], reference: str, sizes: dict[str, str]) -> list[dict]:
    """{size, cell_tokens, sentences} of each cell among the rows (scores.py), at most four sentences each."""
    cells: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        cells[row["size"], row["cell_tokens"]].append(row)
    return [
        {"size": size, "cell_tokens": tokens, "sentences": _of_cell(own, reference, _place(size, tokens, sizes))}
        for (size, tokens), own in cells.items()
    ]


def metric_name(metric: str) -> str:
    """bits_per_byte as bits per byte."""
    return metric.replace("_", " ")


def _place(size: str, tokens: float, sizes: dict[str, str]) -> str:
    return f"{sizes.get(size, size)}, {count_name(tokens, 3)} tokens"


def _of_cell(rows: list[dict], reference: str, place: str) -> list[str]:
    compared = [row for row in rows if row["compared"]]
    if not any(row["said"] == REFERENCE for row in rows):
        return [f"Scores on tasks at {place}: {label(reference)} has none, and nothing is held against it."]
    sentences = []
    for of in (VARIANTS, RUNS):
        if own := [row for row in compared if row["of"] == of]:
            sentences += _of_questions(own, reference, place, of)
    if not sentences and len({row["variant"] for row in rows}) > 1:
        sentences = [f"Scores on tasks at {place}: no variant has a pair with {label(reference)} by document."]
    return sentences


def _of_questions(rows: list[dict], reference: str, place: str, of: str) -> list[str]:
    whose, apart = ("", "") if of == VARIANTS else ("'s", ", of one seed: they tell two runs apart, not two attentions")
    against = f"{label(reference)}{whose}"
    parts = [
        f"shown to be {said} than {against}: {_listed(found, whose)}"
        for said in (BETTER, WORSE)
        if (found := [row for row in rows if row["said"] == said])
    ]
    told = "; ".join(parts) or f"none is shown to be better or worse than {against}"
    sentences = [f"Scores on tasks at {place} ({len(rows)} questions{apart}): {told}."]
    if undecided := [row for row in rows if row["said"] == OPEN]:
        which = f" ({_tasks(undecided, whose)})" if parts else ""
        sentences.append(f"Not shown either way: {len(undecided)} of {len(rows)}{which}.")
    return sentences


def _listed(rows: list[dict], whose: str) -> str:
    """As: mfa on hellaswag by 0.021 bits per byte [0.012, 0.03]."""
    named = [_named(row, whose) for row in sorted(rows, key=lambda row: row["p_holm"])]
    return "; ".join(_few(named))


def _named(row: dict, whose: str) -> str:
    found = row["difference"]
    sign = math.copysign(1, found["value"])
    low, high = sorted(sign * found[end] for end in ("low", "high"))
    by = f"{abs(found['value']):.2g} {metric_name(row['metric'])} [{low:.2g}, {high:.2g}]"
    return f"{label(row['variant'])}{whose} on {row['task']} by {by}"


def _tasks(rows: list[dict], whose: str) -> str:
    """As: mfa on arc_easy, boolq; mla on boolq."""
    of_variant: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_variant[row["variant"]].append(row["task"])
    return "; ".join(_few([f"{label(name)}{whose} on {', '.join(_few(tasks))}" for name, tasks in of_variant.items()]))


def _few(named: list[str]) -> list[str]:
    return named if len(named) <= MOST_NAMED else [*named[:MOST_NAMED], f"{len(named) - MOST_NAMED} others"]
