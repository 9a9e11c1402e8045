"""The tables of a comparison as CSV; an interval is three columns: X, X_low, X_high.

Text that a spreadsheet would run as a formula has an apostrophe before it.
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mfa_train.scaling.report.thinning import ROWS, evenly

FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "|", "%")
"""What a formula begins with, the wide forms too."""


def tables(result: dict) -> tuple[dict[str, list[dict]], dict[str, int]]:
    """Rows of plain values, by the table's name; and of those with too many, how many there would be."""
    many = sum(len(verdict["runs"]) for verdict in result["verdicts"])
    most = many if many <= ROWS else ROWS // len(result["verdicts"])
    pairs = [
        {"a": verdict["a"], "b": verdict["b"], "run_a": one, "run_b": other, "loss_difference": difference}
        for verdict in result["verdicts"]
        for one, other, difference in evenly(verdict["runs"], most)
    ]
    found = {
        "runs": _with_columns_of_scores(result["runs"]),
        "laws": [
            {"variant": name, "attention": one["attention"], **one["fit"]} for name, one in result["variants"].items()
        ],
        "law_differences": result["parameter_differences"],
        "at_budgets": result["at_budgets"],
        "frontiers": [
            {
                "accounting": curve["accounting"],
                "variant": curve["variant"],
                "compute": point["compute"],
                "loss": {key: point[key] for key in ("value", "low", "high")},
            }
            for curve in result["frontiers"]
            for point in curve["points"]
        ],
        "loss_over_kv": result["loss_over_kv"],
        "kv_at_equal_loss": result["kv_at_equal_loss"],
        "verdicts": [{key: value for key, value in verdict.items() if key != "runs"} for verdict in result["verdicts"]],
        "pairs": pairs,
        "evaluations": result.get("evaluations", []),
        "loss_by_position": result.get("loss_by_position", []),
    }
    total = {name: len(rows) for name, rows in found.items()} | {"pairs": many}
    if "runs" in result.get("thinned", {}):
        total["runs"] = result["thinned"]["runs"][1]
    made = {name: [_flat(row) for row in evenly(rows, ROWS)] for name, rows in found.items() if rows}
    return made, {name: total[name] for name, rows in made.items() if len(rows) < total[name]}


def _with_columns_of_scores(runs: list[dict]) -> list[dict]:
    """A column for each task and metric that any run has."""
    columns = sorted({name for run in runs for name in run.get("scores", {})})
    return [
        {key: value for key, value in run.items() if key != "scores"}
        | {name: run["scores"].get(name) for name in columns}
        for run in runs
    ]


def write_csv(path: Path, rows: Iterable[dict], conventions: dict) -> None:
    """The rows under their header; the first column's name carries no convention, so each row ends with them."""
    rows = list(rows)
    told = "; ".join(f"{key}: {conventions[key]}" for key in ("estimator", "parameters", "flops", "loss"))
    columns = [*dict.fromkeys(key for row in rows for key in row), "conventions"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} | {"conventions": told} for row in rows)


def _text(value: Any) -> Any:
    """What is no number and begins as a formula does, made text."""
    if not isinstance(value, str) or not value.lstrip().startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _flat(row: dict) -> dict:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
            flat |= {key: value["value"], f"{key}_low": value["low"], f"{key}_high": value["high"]}
        else:
            flat[key] = json.dumps(value) if isinstance(value, (dict, list)) else value
    return flat
