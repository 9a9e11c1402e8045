"""Scores on tasks at the terminal: of the largest cell what they show, and a table of variants by tasks for each
metric."""

from mfa_train.columns import in_columns
from mfa_train.scaling.study.evaluations import BITS_PER_BYTE
from mfa_train.scaling.verdicts.enough import SHOWN
from mfa_train.scaling.verdicts.said import BETTER, WORSE
from mfa_train.scaling.verdicts.scores import NOT_PAIRED, REFERENCE, RUNS
from mfa_train.scaling.verdicts.scores_told import metric_name
from mfa_train.scaling.verdicts.sentences import label

WIDEST = 120
MOST_VARIANTS = 20
LONGEST_NAME, LONGEST_TASK = 24, 28
GAP = 2
MARKS = {(BETTER, False): "▲", (WORSE, False): "▼", (BETTER, True): "△", (WORSE, True): "▽"}
"""By what is shown, and whether of runs alone."""
BEST, UNPAIRED = "*", "°"


def scores_of_largest(result: dict) -> tuple[list[str], str, str]:
    """The sentences, tables and legend of the last cell in which the reference stands beside most others."""
    rows = result["evaluations"]
    cells = list(dict.fromkeys((row["size"], row["cell_tokens"]) for row in rows))
    variants = {cell: {row["variant"] for row in rows if (row["size"], row["cell_tokens"]) == cell} for cell in cells}
    chosen = max(reversed(cells), key=lambda cell: (result["reference"] in variants[cell], len(variants[cell])))
    own = [row for row in rows if (row["size"], row["cell_tokens"]) == chosen]
    sentences = next(
        told["sentences"] for told in result["evaluations_told"] if (told["size"], told["cell_tokens"]) == chosen
    )
    metrics = sorted({row["metric"] for row in own}, key=lambda name: (name != BITS_PER_BYTE, name))
    tables = "\n\n".join(_table([row for row in own if row["metric"] == metric], metric) for metric in metrics)
    return sentences, tables, _legend(own, result["reference"])


def _table(rows: list[dict], metric: str) -> str:
    """A line for each variant, a column for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    variants = sorted({row["variant"] for row in rows}, key=lambda name: _order(rows, name))
    cells = {(row["variant"], row["task"]): _cell(row) for row in rows}
    lines = [
        [_cut(label(variant), LONGEST_NAME), *(cells.get((variant, task), "-") for task in tasks)]
        for variant in variants[:MOST_VARIANTS]
    ]
    head = [metric_name(metric), *(_cut(task, LONGEST_TASK) for task in tasks)]
    widths = [max(map(len, column)) + GAP for column in zip(head, *lines)]
    fit = next((at for at in range(1, len(widths)) if sum(widths[: at + 1]) - GAP > WIDEST), len(widths))
    left = [
        *([f"{len(tasks) - fit + 1} more tasks"] if fit <= len(tasks) else []),
        *([f"{len(variants) - MOST_VARIANTS} more variants"] if len(variants) > MOST_VARIANTS else []),
    ]
    table = "\n".join(in_columns([line[:fit] for line in (head, *lines)], words=range(fit)))
    return table + (f"\n{', '.join(left)}: evaluations.csv" if left else "")


def _order(rows: list[dict], variant: str) -> tuple[bool, str]:
    """The reference first."""
    return not any(row["said"] == REFERENCE for row in rows if row["variant"] == variant), variant


def _cell(row: dict) -> str:
    mark = MARKS.get((row["said"], row["of"] == RUNS), UNPAIRED if row["said"] == NOT_PAIRED else "")
    return value_with_error(row["value"], row["stderr"]) + mark + BEST * row["best"]


def value_with_error(value: float, stderr: float | None) -> str:
    """As 1.234±0.012."""
    form = ".3f" if abs(value) < 1000 else ".4g"
    return f"{value:{form}}" + ("" if stderr is None else f"±{stderr:{form}}")


def _legend(rows: list[dict], reference: str) -> str:
    """Of the signs that are there."""
    name = label(reference)
    signs = {_cell(row)[-1] for row in rows} | {sign for row in rows if row["best"] for sign in _cell(row)[-2:]}
    told = {
        "▲▼": f"▲ better, ▼ worse than {name}, shown (p below {SHOWN:g}, corrected)",
        "△▽": f"△ better, ▽ worse than {name}'s run (as surely, but of these two runs alone: one seed)",
        BEST: f"{BEST} shown to be better than every other",
        UNPAIRED: f"{UNPAIRED} not paired with {name}'s",
    }
    return "; ".join(["± standard error", *(text for some, text in told.items() if signs & set(some))])


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
