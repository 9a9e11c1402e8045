"""The report's pictures as PNG and SVG. matplotlib comes with `pip install '.[plot]'`."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.transforms import offset_copy

from mfa_train.scaling.report.colors import looks_of
from mfa_train.scaling.report.page_file import ALL_CURVE_POINTS, thinned
from mfa_train.scaling.report.thinning import PICTURED, evenly
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.study.size_names import count_name
from mfa_train.scaling.verdicts.known import flops_of, loss_of, params_of, tokens_of
from mfa_train.scaling.verdicts.on_frontier import NOT_SHOWN, OFF, ON
from mfa_train.scaling.verdicts.said import SAME_CACHE
from mfa_train.scaling.verdicts.sentences import SHARE, label

Looks = dict[str, dict[str, str]]
STYLE: dict[str, object] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "mfa_train",
}
LONGEST_NAME = 60
SIDE_BY_SIDE = 9
"""Points between the marks of variants with one cache."""
MARKS_TOLD = {
    ON: "filled: shown to be on the frontier",
    NOT_SHOWN: "hollow: not shown either way",
    OFF: "crossed: another with no more cache is shown to be better",
}
COMPUTE = {"parameters": "6 × parameters × tokens (FLOPs)", "flops": "training FLOPs"}


def write_plots(result: dict, runs: list[Run], folder: Path) -> list[Path]:
    """Writes each picture twice; returns the PNGs."""
    written = []
    with plt.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]  # its stub lists every key
        warnings.simplefilter("ignore")  # a sign that the font lacks is a box
        for name, figure in _figures(result, runs):
            for suffix, told in (
                ("svg", {"Date": None, "Description": str(result["conventions"]["estimator"])}),
                ("png", None),
            ):
                figure.savefig(folder / f"{name}.{suffix}", metadata=told, dpi=150)
            plt.close(figure)
            written.append(folder / f"{name}.png")
    return written


def _figures(result: dict, runs: list[Run]) -> Iterator[tuple[str, plt.Figure]]:
    named = dict.fromkeys([*result["variants"], *(run.variant for run in runs if run.variant)])
    looks = looks_of(runs, list(named))
    used = evenly([run for run in runs if run.excluded is None], PICTURED)
    for accounting, axis in COMPUTE.items():
        if rows := [row for row in result["loss_over_kv"] if row["accounting"] == accounting]:
            yield f"loss_over_kv_{accounting}", _over_kv(rows, looks, result)
        if curves := [curve for curve in result["frontiers"] if curve["accounting"] == accounting]:
            yield (
                f"loss_over_compute_{accounting}",
                _over_compute(curves, used, looks, axis, accounting, result),
            )
    yield "laws", _laws(used, looks, result)
    if runs := evenly([run for run in runs if run.curve], PICTURED // 12):
        for over, axis in (("tokens", "training tokens"), ("flops", "training FLOPs"), ("seconds", "seconds")):
            yield f"loss_over_{over}", _curves(runs, looks, over, axis)


def _axes(result: dict, label: str) -> tuple[plt.Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    axes.set_xlabel(label)
    axes.set_ylabel(f"loss ({result['conventions']['loss']})")
    axes.set_xscale("log")
    conventions = result["conventions"]
    figure.supxlabel(
        f"{conventions['estimator']}.\nN: {conventions['parameters']}. FLOPs: {conventions['flops']}. "
        f"{conventions['intervals'].split(';')[0]} intervals.",
        fontsize=5.5,
        color="#777777",
    )
    return figure, axes


def _over_kv(rows: list[dict], looks: Looks, result: dict) -> plt.Figure:
    """The largest cell: the last, as cells come smallest first."""
    last = rows[-1]
    rows = [row for row in rows if (row["size"], row["cell_tokens"]) == (last["size"], last["cell_tokens"])]
    figure, axes = _axes(result, "")
    values = [row["loss"]["value"] for row in rows]
    room = (max(values) - min(values)) or np.inf
    ends = [end for row in rows if row["loss"]["low"] is not None for end in (row["loss"]["low"], row["loss"]["high"])]
    low, high = max(min(values + ends), min(values) - room), min(max(values + ends), max(values) + room)
    margin = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - margin, high + margin)
    marks = {row["frontier"] for row in rows}
    notes = [told for mark, told in MARKS_TOLD.items() if mark in marks]
    if ends and (min(ends) < low - margin or max(ends) > high + margin):
        notes.append("bars that leave the picture go on")
    axes.set_xlabel(
        "\n".join(
            [
                f"KV cache (bytes per token); {result['sizes'].get(last['size'], last['size'])}, "
                f"{count_name(last['cell_tokens'], 3)} tokens",
                "; ".join(notes),
            ]
        )
    )
    sizes = [row["kv_bytes_per_token"] for row in rows]
    axes.set_xlim(min(sizes) / 1.25, max(sizes) * 1.6)
    groups = _of_one_cache(rows)
    axes.set_xticks(
        [same[0]["kv_bytes_per_token"] for same in groups], [f"{same[0]['kv_bytes_per_token']:,.0f}" for same in groups]
    )
    axes.minorticks_off()
    for same in groups:
        heights = _apart([row["loss"]["value"] for row in same], 0.05 * (high - low + 2 * margin))
        for index, (row, height) in enumerate(zip(same, heights)):
            loss, color = row["loss"], looks[row["variant"]]["color"]
            aside = SIDE_BY_SIDE * (index - (len(same) - 1) / 2)
            error = (
                [[0], [0]]
                if loss["low"] is None
                else [[max(0.0, loss["value"] - loss["low"])], [max(0.0, loss["high"] - loss["value"])]]
            )  # rounding
            axes.errorbar(
                row["kv_bytes_per_token"],
                loss["value"],
                error,
                fmt="X" if row["frontier"] == OFF else "o",
                color=color,
                markersize=7,
                markerfacecolor=color if row["frontier"] == ON else "white",
                transform=offset_copy(axes.transData, figure, x=aside, units="points"),
            )
            axes.annotate(
                _plain(re.sub(SHARE, "", row["variant"])),
                (row["kv_bytes_per_token"], height),
                xytext=(SIDE_BY_SIDE * (len(same) - 1) / 2 + 7, 0),
                textcoords="offset points",
                va="center",
                color=color,
            )
    return figure


def _of_one_cache(rows: list[dict]) -> list[list[dict]]:
    """Rows of nearly the same cache, which stand side by side, by their loss."""
    groups: list[list[dict]] = []
    for row in sorted(rows, key=lambda row: row["kv_bytes_per_token"]):
        if groups and row["kv_bytes_per_token"] < SAME_CACHE * groups[-1][0]["kv_bytes_per_token"]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [sorted(group, key=lambda row: row["loss"]["value"]) for group in groups]


def _apart(heights: list[float], least: float) -> list[float]:
    """Rising heights, moved no more than it takes to be that far from each other."""
    blocks: list[tuple[float, int]] = []  # middle, count
    for height in heights:
        blocks.append((height, 1))
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < least * (blocks[-1][1] + blocks[-2][1]) / 2:
            (second, n), (first, m) = blocks.pop(), blocks.pop()
            blocks.append(((first * m + second * n) / (m + n), m + n))
    return [middle + least * (index - (count - 1) / 2) for middle, count in blocks for index in range(count)]


def _over_compute(
    curves: list[dict], used: list[Run], looks: Looks, over: str, accounting: str, result: dict
) -> plt.Figure:
    figure, axes = _axes(result, over)
    for curve in curves:
        color = looks[curve["variant"]]["color"]
        compute, value, low, high = (
            np.array([point[key] for point in curve["points"]], dtype=float)
            for key in ("compute", "value", "low", "high")
        )
        axes.fill_between(compute, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(compute, value, color=color, linestyle=_dash(looks[curve["variant"]]), label=_plain(curve["variant"]))
        own = [run for run in used if run.variant == curve["variant"]]
        if accounting == "flops":
            own = [run for run in own if run.flops]
        spent = [flops_of(run) if accounting == "flops" else 6 * params_of(run) * tokens_of(run) for run in own]
        axes.plot(spent, [loss_of(run) for run in own], ".", color=color, markersize=4)
    axes.legend(fontsize=8, loc="upper right")
    return figure


def _laws(used: list[Run], looks: Looks, result: dict) -> plt.Figure:
    figure, axes = _axes(result, "training tokens D; a line for each size")
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter("{x:.3g}")
    axes.yaxis.set_major_formatter("{x:.3g}")
    for name, one in result["variants"].items():
        own, fit, color = [run for run in used if run.variant == name], one["fit"], looks[name]["color"]
        axes.plot(
            [tokens_of(run) for run in own],
            [loss_of(run) for run in own],
            "o",
            color=color,
            markersize=4,
            label=_plain(name),
        )
        if fit["method"] == "none" or not own:
            continue
        e, a, alpha, b, beta = (fit[key]["value"] for key in ("E", "A", "alpha", "B", "beta"))
        tokens = np.geomspace(min(map(tokens_of, own)), max(map(tokens_of, own)), 60)
        for params in sorted({float(f"{params_of(run):.2g}") for run in own})[:12]:
            axes.plot(tokens, e + a / params**alpha + b / tokens**beta, _dash(looks[name]), color=color, linewidth=1)
    axes.legend(fontsize=8, loc="upper right")
    return figure


def _curves(runs: list[Run], looks: Looks, key_of_x: str, over: str) -> plt.Figure:
    key = "val/loss" if any(sum(bool(record["val/loss"]) for record in run.curve) > 1 for run in runs) else "train/loss"
    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    axes.set_xlabel(over)
    axes.set_ylabel(f"{'held-out' if key == 'val/loss' else 'training'} loss (nats per token)")
    axes.set_xscale("log")
    most = max(12, ALL_CURVE_POINTS // len(runs))
    records = {id(run): thinned(run.curve, most) for run in runs}
    for name, look in looks.items():
        for excluded in (False, True):
            # One line for all runs of a variant, broken between them: a thousand artists would take a minute to draw.
            x, y = [], []
            for run in runs:
                if run.variant == name and (run.excluded is not None) == excluded:
                    evaluated = [record for record in records[id(run)] if record[key] and record[key_of_x]]
                    x += [*(record[key_of_x] for record in evaluated), np.nan]
                    y += [*(record[key] for record in evaluated), np.nan]
            if np.isfinite(y).any():
                axes.plot(
                    x,
                    y,
                    color=look["color"],
                    linewidth=0.9,
                    alpha=0.8,
                    linestyle=":" if excluded else _dash(looks[name]),
                    label=None if excluded else _plain(name),
                )
    axes.legend(fontsize=8, loc="upper right")
    return figure


def _dash(look: dict[str, str]) -> str:
    return "-" if look["dash"] == "none" else "--"


def _plain(name: str) -> str:
    """A name as it is: matplotlib would typeset what stands between dollar signs, and keep what begins with _ from
    legends."""
    name = label(name)
    short = " ".join((name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…").split())
    return f" {short}".replace("$", r"\$") if short.startswith("_") else short.replace("$", r"\$")
