"""What scores on tasks show, in sentences: of each cell which tasks show a difference, and which show none either
way."""

import math
from collections import defaultdict
from collections.abc import Iterable

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
    shown = [row for row in rows if row["said"] in (BETTER, WORSE)]
    undecided = [row for row in rows if row["said"] == OPEN]
    against = label(reference) if of == VARIANTS else f"{label(reference)}'s run"
    begin = (
        f"Scores on tasks at {place}: "
        if of == VARIANTS
        else f"Scores on tasks of one seed at {place}, which tell runs apart, not attentions: "
    )
    parts = [
        f"shown to be {said} than {against}: {_listed(found)}"
        for said in (BETTER, WORSE)
        if (found := [row for row in shown if row["said"] == said])
    ]
    sentences = [f"{begin}{'; '.join(parts) if parts else f'none is shown to be better or worse than {against}'}."]
    if undecided:
        sentences.append(f"Not shown either way: {len(undecided)} of {len(rows)} ({_tasks(undecided)}).")
    return sentences


def _listed(rows: list[dict]) -> str:
    """As: mfa on hellaswag by 0.021 bits per byte [0.012, 0.03]."""
    ordered = sorted(rows, key=lambda row: row["p_holm"])
    named = [_named(row) for row in ordered[:MOST_NAMED]]
    return "; ".join([*named, f"{len(rows) - MOST_NAMED} others"] if len(rows) > MOST_NAMED else named)


def _named(row: dict) -> str:
    sign = math.copysign(1, row["difference"]["value"])
    low, high = sorted(sign * row["difference"][end] for end in ("low", "high"))
    by = f"{abs(row['difference']['value']):.2g} {metric_name(row['metric'])} [{low:.2g}, {high:.2g}]"
    return f"{label(row['variant'])} on {row['task']} by {by}"


def _tasks(rows: Iterable[dict]) -> str:
    """As: mfa on arc_easy, boolq; mla on boolq."""
    of_variant: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_variant[row["variant"]].append(row["task"])
    named = []
    for variant, tasks in list(of_variant.items())[:MOST_NAMED]:
        more = f" and {len(tasks) - MOST_NAMED} more" if len(tasks) > MOST_NAMED else ""
        named.append(f"{label(variant)} on {', '.join(tasks[:MOST_NAMED])}{more}")
    return "; ".join([*named, f"{len(of_variant) - MOST_NAMED} others"] if len(of_variant) > MOST_NAMED else named)
