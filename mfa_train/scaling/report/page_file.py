"""report/index.html: one file with everything in it, which opens from a USB stick and asks no network for anything."""

import json
from pathlib import Path
from typing import Any

from mfa_train.scaling.report.colors import looks_of
from mfa_train.scaling.report.terminal_scores import MARKS
from mfa_train.scaling.report.thinning import PAGE_BYTES, brief
from mfa_train.scaling.study.curve import FIELDS
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.on_frontier import OFF, ON
from mfa_train.scaling.verdicts.said import BETTER, SAME_CACHE, WORSE
from mfa_train.scaling.verdicts.scores import RUNS, VARIANTS
from mfa_train.scaling.verdicts.sentences import SHARE

PARTS = Path(__file__).resolve().parent / "page"
SCRIPTS = ("data.js", "table.js", "chart.js", "kv.js", "pairs.js", "laws.js", "curves.js", "page.js")
WHERE_TOLD = {"loss_by_position": "positions.js", "evaluations": "scores.js"}
"""The last, on pages whose result has that key."""
MOST_LISTED = (5_000, 2_500, 1_250, 600, 300, 100, 30)
"""Of each list, tried until the page is small enough."""
ALL_CURVE_POINTS = 60_000
"""Of all runs together: a page that a phone still opens."""


def page(result: dict, runs: list[Run]) -> tuple[str, dict]:
    """The page of `compare`'s result and the loss curves of its runs, and the result as it lists it: with less, evenly,
    where it would be too large to open."""
    names = ("page.html", "page.css", *SCRIPTS, *(name for key, name in WHERE_TOLD.items() if key in result))
    html, style, *scripts = ((PARTS / name).read_text(encoding="utf-8") for name in names)
    html = html.replace("{{style}}", style).replace("{{script}}", "".join(scripts))
    result = brief(result)
    for most in MOST_LISTED:
        shown = brief(result, most)
        made = html.replace("{{data}}", _data(shown, runs, ALL_CURVE_POINTS * most // MOST_LISTED[0]))
        if len(made.encode()) <= PAGE_BYTES:
            break
    return made, shown


def _data(result: dict, runs: list[Run], points: int) -> str:
    listed = {run["name"] for run in result["runs"]} if "runs" in result.get("thinned", {}) else None
    drawn = [run for run in runs if run.curve and (listed is None or run.name in listed)]
    most = max(12, points // max(1, len(runs) if listed is None else len(listed)))
    curves = [{"name": run.name} | _columns(thinned(run.curve, most)) for run in drawn]
    variants = list(dict.fromkeys([*result["variants"], *(run.variant for run in runs if run.variant)]))
    looks: dict[str, Any] = {
        "variants": looks_of(runs, variants),
        "SAME_CACHE": SAME_CACHE,
        "SHARE": SHARE,
        "ON": ON,
        "OFF": OFF,
    }
    if "evaluations" in result:
        looks["MARKS"] = [[said, of, MARKS[said, of == RUNS]] for said in (BETTER, WORSE) for of in (VARIANTS, RUNS)]
    data = json.dumps({"result": result, "curves": curves, "looks": looks}, allow_nan=False, separators=(",", ":"))
    # Inside a script element only these could end it or begin another; in JSON they stand in strings alone.
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return data


def thinned(records: list[dict], most: int) -> list[dict]:
    """At most about `most` records: the last, every evaluation unless there are too many, and others evenly."""
    stride = -(-len(records) // most)
    last = len(records) - 1
    few_evaluations = sum(record["val/loss"] is not None for record in records) <= most
    return [
        record
        for index, record in enumerate(records)
        if index % stride == 0 or index == last or (few_evaluations and record["val/loss"] is not None)
    ]


def _columns(records: list[dict]) -> dict[str, list]:
    return {key: [record[key] and float(f"{record[key]:.6g}") for record in records] for key in FIELDS}
