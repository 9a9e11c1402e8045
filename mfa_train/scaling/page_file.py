"""report/index.html: one file with everything in it, which opens from a USB stick and asks no network for anything."""

import json
from pathlib import Path

from mfa_train.scaling.curve import FIELDS
from mfa_train.scaling.looks import COLORS, SAME_CACHE, SHARE
from mfa_train.scaling.runs import Run

PARTS = Path(__file__).resolve().parent / "page"
FILES = ("page.html", "page.css", "chart.js", "sections.js", "page.js")
ALL_CURVE_POINTS = 60_000
"""Of all runs together: a page that a phone still opens."""


def page(result: dict, runs: list[Run]) -> str:
    """The page of `compare`'s result and the loss curves of its runs."""
    most = max(12, ALL_CURVE_POINTS // max(1, len(runs)))
    curves = [{"name": run.name} | _columns(_thinned(run.curve, most)) for run in runs if run.curve]
    looks = {"COLORS": COLORS, "SAME_CACHE": SAME_CACHE, "SHARE": SHARE}
    data = json.dumps({"result": result, "curves": curves, "looks": looks}, allow_nan=False, separators=(",", ":"))
    # Inside a script element only these could end it or begin another; in JSON they stand in strings alone.
    for sign in "<>&\u2028\u2029":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    html, style, *scripts = ((PARTS / name).read_text(encoding="utf-8") for name in FILES)
    return html.replace("{{style}}", style).replace("{{script}}", "".join(scripts)).replace("{{data}}", data)


def _thinned(records: list[dict], most: int) -> list[dict]:
    """At most about `most` records: the last, every evaluation unless there are too many, and others evenly."""
    stride = -(-len(records) // most)
    last = len(records) - 1
    few_evaluations = sum(record["val/loss"] is not None for record in records) <= most
    return [record for index, record in enumerate(records)
            if index % stride == 0 or index == last or few_evaluations and record["val/loss"] is not None]


def _columns(records: list[dict]) -> dict[str, list]:
    return {key: [record[key] and float(f"{record[key]:.6g}") for record in records] for key in FIELDS}
