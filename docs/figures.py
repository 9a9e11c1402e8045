"""Draws the losses of runs, and the pictures of docs/ from runs and from the plan.

    .venv/bin/python docs/figures.py runs/mfa-nano [RUN ...] [--out FOLDER]

writes loss.svg: training and held-out loss of the runs over tokens, from their metrics.jsonl, into the first run's
folder or into FOLDER. A run may lie in an archive (study.zip/mfa-nano); then FOLDER must be typed.

    .venv/bin/python docs/figures.py --docs [RUN ...]

draws the repository's own pictures anew: docs/images/kv_cache.svg (KV bytes per token of every attention at model=7b),
docs/images/frontier.svg (what matched attentions cost over their cache) and, of the runs that are typed, loss.svg.

    .venv/bin/python docs/figures.py --decoding FILE [--out FOLDER]

writes decoding.svg: time per token over the context, from what `make bench-decode ARGS="--out FILE"` measured, into
docs/images or into FOLDER.

    .venv/bin/python docs/figures.py --context FILE [--out FOLDER]

writes context-per-gpu.svg: tokens of the longest sequence that each device has, over the KV cache, from what
`benchmarks/context_on_paper.py longest --out FILE` found, into docs/images or into FOLDER.

matplotlib comes with `pip install '.[plot]'`, and with `make test`.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mfa_train import config as configs
from mfa_train.archive import AnyPath, opened
from mfa_train.attention import variants
from mfa_train.budget.match import matched
from mfa_train.budget.shape import measure
from mfa_train.doors import report
from mfa_train.errors import ConfigError, DataError
from mfa_train.scaling.report.colors import looks_of
from mfa_train.scaling.report.plots import STYLE
from mfa_train.tracking.metrics_file import read_metrics

IMAGES = Path(__file__).resolve().parent / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run folder, as runs/mfa-nano")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where loss.svg goes (default: the first run's folder)"
    )
    parser.add_argument("--docs", action="store_true", help="draw the pictures in docs/images anew")
    parser.add_argument("--decoding", type=Path, metavar="FILE", help="draw what bench-decode measured")
    parser.add_argument("--context", type=Path, metavar="FILE", help="draw what context_on_paper.py longest found")
    parser.add_argument("--format", default="svg", choices=("svg", "png", "pdf"))
    arguments = parser.parse_args()
    runs = [run for typed in arguments.runs for run in opened(typed)]
    out = (
        IMAGES
        if arguments.docs or ((arguments.decoding or arguments.context) and not arguments.out)
        else arguments.out or (runs[0] if runs else None)
    )
    if not isinstance(out, Path) or (arguments.docs and arguments.out):
        parser.error("type RUN, or --docs for the pictures in docs/images, or --out FOLDER for a run in an archive")
    with plt.rc_context(STYLE):
        if runs:
            figure = loss_curves(runs)
            out.mkdir(parents=True, exist_ok=True)
            save(figure, out / f"loss.{arguments.format}")
        if arguments.decoding:
            figure = decoding_times(arguments.decoding)
            out.mkdir(parents=True, exist_ok=True)
            save(figure, out / f"decoding.{arguments.format}")
        if arguments.context:
            figure = context_per_gpu(arguments.context)
            out.mkdir(parents=True, exist_ok=True)
            save(figure, out / f"context-per-gpu.{arguments.format}")
        if arguments.docs:
            save(cost_frontier(), IMAGES / f"frontier.{arguments.format}")
            save(kv_cache_bars("7b"), IMAGES / f"kv_cache.{arguments.format}")


def loss_curves(runs: list[AnyPath]) -> plt.Figure:
    """train/loss as a line, val/loss as points with their last value written beside. Raises DataError for a run without
    records."""
    figure, axes = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for run in runs:
        if not (records := read_metrics(run / "metrics.jsonl")):
            raise DataError(f"{run}: no records in metrics.jsonl")
        held_out = [record for record in records if "val/loss" in record]
        tokens, losses = zip(*((record["tokens"] / 1e6, record["train/loss"]) for record in records))
        (line,) = axes.plot(tokens, losses, linewidth=1.3, label=f"{run.name}: train/loss")
        if held_out:
            at, values = zip(*((record["tokens"] / 1e6, record["val/loss"]) for record in held_out))
            axes.plot(
                at,
                values,
                "o",
                color=line.get_color(),
                markeredgecolor="white",
                markersize=7,
                label=f"{run.name}: val/loss",
            )
            axes.annotate(
                f"{values[-1]:.3f}",
                (at[-1], values[-1]),
                xytext=(7, 4),
                textcoords="offset points",
                color=line.get_color(),
                annotation_clip=False,
            )
    axes.set_xlabel("training tokens (millions)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    axes.legend()
    return figure


def kv_cache_bars(model: str) -> plt.Figure:
    """KiB of cache that one token takes in all layers, 16-bit values, largest first."""
    sizes = {}
    for attention in variants():
        config = configs.load([f"attention={attention}", f"model={model}"])
        shape = measure(config.model, config.attention)
        sizes[attention] = shape.layers * shape.cache_values_per_layer * 2 / 1024
    names = sorted(sizes, key=sizes.get)
    figure, axes = plt.subplots(figsize=(7.2, 0.32 * len(names) + 1), layout="constrained")
    bars = axes.barh(names, [sizes[name] for name in names], color="#3b6ea8", height=0.65)
    axes.bar_label(bars, [f"{sizes[name]:g} KiB" for name in names], padding=4)
    axes.set_xlabel(f"KV cache per token, all layers (KiB, 16-bit values; model={model})")
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    return figure


FRONTIER = ["model=7b", "model.vocab_size=32000", "match.reference=mha"]
BUDGETS_KIB = (12, 16, 24, 32, 48, 64, 96, 128, 192)
CONTEXT = 32_768


def cost_frontier() -> plt.Figure:
    """FLOPs of a decoded and of a trained token over the cache, every point a model of MHA's parameters."""
    figure, (decoding, training) = plt.subplots(1, 2, figsize=(9.6, 4.8), layout="constrained")
    names = [name for name in variants() if name != "mha"]
    looks = looks_of([], names)
    for attention in names:
        points = {}
        for budget in BUDGETS_KIB:
            try:
                config, _ = matched(
                    configs.load([f"attention={attention}", f"match.kv_bytes_per_token={budget}KiB", *FRONTIER])
                )
            except ConfigError:  # this variant has no such model
                continue
            shape = measure(config.model, config.attention)
            points[shape.layers * shape.cache_values_per_layer * 2 / 1024] = shape
        line = {"color": looks[attention]["color"], "linestyle": "-" if looks[attention]["dash"] == "none" else "--"}
        _frontier_lines(decoding, training, points, attention, marker="o", markersize=4, linewidth=1.3, **line)
    config = configs.load(["attention=mha", *FRONTIER])
    shape = measure(config.model, config.attention)
    full = {shape.layers * shape.cache_values_per_layer * 2 / 1024: shape}
    _frontier_lines(decoding, training, full, "mha", marker="*", markersize=12, color="black", linestyle="none")
    for axes in (decoding, training):
        axes.set_xscale("log", base=2)
        axes.set_xticks([2**power for power in range(3, 10)], [str(2**power) for power in range(3, 10)])
        axes.set_xlabel("KV cache per token, all layers (KiB)")
    decoding.set_yscale("log")
    decoding.set_yticks([20, 50, 100, 200, 400], ["20", "50", "100", "200", "400"])
    decoding.minorticks_off()
    decoding.set_ylabel(f"attention GFLOPs per decoded token, {CONTEXT // 1024}K context")
    training.set_ylabel("training GFLOPs per token")
    figure.legend(*training.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def _frontier_lines(decoding, training, points: dict, name: str, **look) -> None:
    caches, shapes = list(points), list(points.values())
    attention = [shape.decode_attention_flops(CONTEXT, "exact") + shape.decode_linear_flops() for shape in shapes]
    decoding.plot(caches, [flops / 1e9 for flops in attention], label=name, **look)
    training.plot(caches, [shape.train_flops_per_token(4096) / 1e9 for shape in shapes], label=name, **look)


def decoding_times(measured: Path) -> plt.Figure:
    """Milliseconds of a token over the context at the smallest batch: a layer's attention, and the whole model."""
    cells = [json.loads(line) for line in measured.read_text(encoding="utf-8").splitlines()]
    batch = min(cell["batch"] for cell in cells)
    cells = [cell for cell in cells if cell["batch"] == batch and "failed" not in cell]
    names = list(dict.fromkeys(cell["variant"] for cell in cells))
    looks = looks_of([], names)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.6), layout="constrained")
    for axes, kind, title in zip(panels, ("layer", "whole"), ("a layer's attention", "the whole model")):
        for name, marker in zip(names, itertools.cycle("os^DvPX*<>hp")):  # hues alone are too near each other
            for key, style in ((kind, "-"), (f"hugging_face_{kind}", ":")):
                own = sorted(
                    (cell["context"], cell[key]["ms"]) for cell in cells if cell["variant"] == name and key in cell
                )
                label = name if key == kind else f"{name}, Hugging Face"
                look = {"color": looks[name]["color"], "marker": marker, "markersize": 5, "label": label}
                axes.plot(*zip(*own), style, **look) if own else None
        contexts = sorted({cell["context"] for cell in cells})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(contexts, [f"{context // 1024}K" if context >= 1024 else str(context) for context in contexts])
        axes.set_xlabel("context (tokens)")
        axes.set_title(f"{title}, batch {batch}", fontsize=10)
    panels[0].set_ylabel("milliseconds per token")
    handles, labels = (
        panels[0].get_legend_handles_labels() if panels[0].lines else panels[1].get_legend_handles_labels()
    )
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


def context_per_gpu(found: Path) -> plt.Figure:
    """Tokens that each device has of the longest sequence that fits, over the KV bytes per token: alone, and where the
    most ranks of the file share it; a panel for each device."""
    cells = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    devices = list(dict.fromkeys(cell["device"] for cell in cells))
    names = list(dict.fromkeys(cell["attention"] for cell in cells))
    looks, counts = looks_of([], names), sorted({cell["context"] for cell in cells})
    figure, panels = plt.subplots(
        1, len(devices), figsize=(max(7.2, 4.6 * len(devices)), 4.4), layout="constrained", squeeze=False
    )
    for axes, device in zip(panels[0], devices):
        for name, marker in zip(names, itertools.cycle("os^DvPX*<>hp")):
            own = {cell["context"]: cell for cell in cells if (cell["device"], cell["attention"]) == (device, name)}
            cache = own[counts[0]]["kv_bytes_per_token"] / 1024
            alone, shared = (own[count]["tokens"] / count / 1024 for count in (counts[0], counts[-1]))
            look = {"color": looks[name]["color"], "marker": marker, "markersize": 6, "linestyle": "none"}
            axes.plot([cache, cache], [alone, shared], color=looks[name]["color"], linewidth=0.8)
            axes.plot(cache, alone, markerfacecolor="white", **look)
            axes.plot(cache, shared, label=name, **look)
        axes.set_xscale("log", base=2)
        axes.set_xticks([2**power for power in range(4, 10)], [str(2**power) for power in range(4, 10)])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("KV cache per token, all layers (KiB)")
        axes.set_title(f"{device}: a sequence alone (hollow), {counts[-1]} share it (filled)", fontsize=10)
    panels[0][0].set_ylabel("longest sequence (1,024 tokens per device)")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


def save(figure: plt.Figure, path: Path) -> None:
    """The same runs give the same bytes: no date in the file."""
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    plt.close(figure)
    print(path)


if __name__ == "__main__":
    sys.exit(report(main))
