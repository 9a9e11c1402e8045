"""What one decoded token costs: every attention of one size at one cache and one number of parameters, and beside it
Hugging Face's Llama with a static cache, and vLLM, where they have the variant.

A cell is a variant at a batch and a context. Its cache is filled with entries of random inputs, in every layer where
that fits into --memory, and steps of one token are timed over it, in turn:

    attend   attention over the entries alone (`Attention.attend`), a layer; without the rotation too, where entries
             are rotated as they are read
    layer    a layer's whole attention: query, entry, cache, attend, output; Hugging Face's over the same cache
    whole    the whole model, with its head; Hugging Face's with the same weights over the same cache; before all that,
             in a process of its own, vLLM's engine with weights drawn anew, where `make .venv/.serve` has installed it
    first    the whole model on a prompt of the smallest context, at batch 1: time to first token

A layer's time is the mean over the layers, each with its own weights and cache. Where all caches together are not
larger than the last-level cache, the cell is marked with *. Cache read is told as a share of the bandwidth of a
reduction, times as multiples of the roofline: max(FLOPs / peak of a matrix product, bytes / bandwidth), of weights and
cache together, by the FLOPs that the plan counts; bandwidth and peak are measured before and after each cell. What
cannot be measured says why. Cells go to --out as lines of JSON, those that are there already are not measured again,
and `docs/figures.py --decoding FILE` draws them. The last line is JSON.

    make bench-decode        or        .venv/bin/python benchmarks/decoding.py [--model 350m] [--out FILE]
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from decoders import HuggingFace, Ours, VLLMMissing, vllm_steps

from mfa_train import config as configs
from mfa_train.attention import variants
from mfa_train.budget.match import matched
from mfa_train.budget.peak import measured_flops
from mfa_train.budget.shape import Shape, measure
from mfa_train.config import Config, default_attention
from mfa_train.errors import ConfigError

HUGGING_FACE = ("mha", "gqa", "mqa")
"""What its Llama can be."""
WARM_UP, LEAST_STEPS = 2, 5


class Machine:
    """What this process measured of the machine at this moment, all of `threads` together."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.last_level = last_level_cache()
        self.buffer = torch.ones(8 * self.last_level // 4)
        self.bandwidth, self.peak = 0.0, 0.0
        for _ in range(3):  # a processor at rest does not start at its speed
            self.measure()

    def measure(self) -> tuple[float, float]:
        """Bytes a second of the faster of two reductions over eight times the last-level cache, the median of several
        goes, and FLOP/s of the fastest square matrix products."""
        seconds: dict[Callable, list[float]] = {torch.Tensor.sum: [], torch.Tensor.amax: []}
        for _ in range(5):
            for reduction, taken in seconds.items():
                start = time.perf_counter()
                reduction(self.buffer)
                taken.append(time.perf_counter() - start)
        self.bandwidth = self.buffer.nbytes / min(statistics.median(taken) for taken in seconds.values())
        self.peak = measured_flops(self.dtype, seconds=0.15)
        return self.bandwidth, self.peak

    def measure_again(self) -> None:
        """What holds beside a cell: the mean of this moment and the one before it."""
        before = self.bandwidth, self.peak
        self.bandwidth, self.peak = map(statistics.mean, zip(before, self.measure()))

    def times_roofline(self, seconds: float, flops: float, num_bytes: float) -> float:
        return seconds / max(flops / self.peak, num_bytes / self.bandwidth)


def last_level_cache() -> int:
    """Bytes; 32 MiB where Linux does not say."""
    sizes = [
        int(path.read_text().strip().removesuffix("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 * 2**20)


def seconds_of(steps: dict[str, Callable[[], Any]], most: int, patience: float) -> dict[str, list[float]]:
    """Of `steps` in turn, so that what else the machine does meets all of them: `most` rounds, or as many as fit into
    `patience` seconds."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    begin = time.perf_counter()
    for number in range(-WARM_UP, most):
        if number >= LEAST_STEPS and time.perf_counter() - begin > patience:
            break
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if number >= 0:
                taken[name].append(time.perf_counter() - start)
    return taken


def told(seconds: list[float], batch: int, share: int) -> dict[str, float]:
    """Of steps, each of so many equal parts."""
    ordered = sorted(second / share * 1e3 for second in seconds)
    median = statistics.median(ordered)
    return {
        "ms": median,
        "p90_ms": ordered[math.ceil(0.9 * len(ordered)) - 1],
        "tokens_per_second": batch / median * 1e3,
    }


def milliseconds(step: Callable[[int], None], tokens: int) -> float:
    start = time.perf_counter()
    step(tokens)
    return (time.perf_counter() - start) * 1e3


class Bench:
    """Measures cells of one setting."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.dtype = arguments, {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
        self.machine = Machine(self.dtype)

    def config(self, variant: str) -> Config:
        """Matched to --cache of MHA's cache and to its parameters, with --own to its parameters alone. Raises
        ConfigError where that can't be."""
        words = [f"attention={variant}", f"model={self.arguments.model}"]
        if self.arguments.own:
            return matched(configs.load([*words, *self.arguments.own, "match.reference=mha"]))[0]
        plain = configs.load(words)
        reference = measure(plain.model, default_attention("mha", plain.model))
        budget = reference.cache_bytes(plain.plan.cache_dtype) // self.arguments.cache
        config, _ = matched(configs.load([*words, f"match.kv_bytes_per_token={budget}", "match.reference=mha"]))
        return config

    def cells(self, variant: str, wanted: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        """What was measured, or why it failed, of each batch and context."""
        try:
            config = self.config(variant)
            shape = measure(config.model, config.attention)
            ours = Ours(config, self.dtype)
            theirs = HuggingFace(config, ours) if variant in HUGGING_FACE else None
        except ConfigError as error:
            for batch, context in wanted:
                yield {"batch": batch, "context": context, "failed": str(error)}
            return
        served = self.served(config, shape, wanted)
        for batch, context in wanted:
            try:
                measured = self.cell(shape, ours, theirs, batch, context)
                self.add(measured, served[batch, context], shape, batch, context)
            except (MemoryError, RuntimeError) as error:
                measured = {"failed": str(error).splitlines()[0]}
            yield {"batch": batch, "context": context, "params": shape.params} | measured

    def served(self, config: Config, shape: Shape, wanted: list[tuple[int, int]]) -> dict[tuple[int, int], dict]:
        """By cell, vLLM's steps, or why there are none."""
        arguments = self.arguments
        if arguments.layer:
            return {cell: {} for cell in wanted}
        of_token = shape.cache_values_per_layer * shape.layers * self.dtype.itemsize
        fit = [cell for cell in wanted if cell[0] * cell[1] * of_token <= arguments.memory * 2**30]
        without = {cell: {"failed": "its cache does not fit: type a larger --memory"} for cell in wanted}
        try:
            return without | vllm_steps(config, fit, arguments, of_token)
        except VLLMMissing as reason:
            return {cell: {"failed": str(reason)} for cell in wanted}

    def add(self, record: dict[str, Any], served: dict[str, Any], shape: Shape, batch: int, context: int) -> None:
        """vLLM's steps to a cell."""
        if "seconds" not in served:
            record |= {"no_vllm": served["failed"]} if served else {}
            return
        machine, seconds = self.machine, served["seconds"]
        cached = shape.cache_values_per_layer * self.dtype.itemsize * batch * (context + 1)
        flops, num_bytes = self.costs(shape, batch, context, cached)["whole"]
        taken = statistics.median(seconds)
        record["vllm_whole"] = told(seconds, batch, 1) | {
            "share_of_bandwidth": cached * shape.layers / taken / machine.bandwidth,
            "times_roofline": machine.times_roofline(taken, flops, num_bytes),
        }
        if "whole" in record:
            record["whole"]["times_vllm"] = record["vllm_whole"]["ms"] / record["whole"]["ms"]
        if batch == 1 and context == min(self.arguments.contexts):
            record["vllm_whole"]["first_token_ms"] = served["first_token"] * 1e3

    def cell(self, shape: Shape, ours: Ours, theirs: HuggingFace | None, batch: int, context: int) -> dict[str, Any]:
        """Raises MemoryError where not even one layer's cache may be there."""
        arguments, machine = self.arguments, self.machine
        of_layer = shape.cache_values_per_layer * self.dtype.itemsize * batch * (context + 1)
        room = int(arguments.memory * 2**30 / 1.5)  # a cache that grows is there twice for a moment
        if of_layer > room:
            raise MemoryError(f"a layer's cache takes {of_layer / 2**30:.1f} GiB: type a larger --memory")
        whole = of_layer * shape.layers <= room and not arguments.layer
        layers = shape.layers if whole else min(shape.layers, room // of_layer, -(-4 * machine.last_level // of_layer))
        ours.fill(batch, context, layers)
        if theirs is not None:
            theirs.share()
        machine.measure()
        taken = seconds_of(self.steps(ours, theirs, whole), arguments.steps, arguments.patience)
        machine.measure_again()
        cache_bytes = ours.cache.num_bytes
        record: dict[str, Any] = {
            "layers": layers,
            "cache_bytes_per_layer": cache_bytes // layers,
            "larger_than_last_level_cache": cache_bytes > machine.last_level,
            "bandwidth": machine.bandwidth,
            "peak_flops": machine.peak,
        }
        costs = self.costs(shape, batch, context, cache_bytes // layers)
        for name, seconds in taken.items():
            kind = name.removeprefix("hugging_face_")
            share, cached = (1, cache_bytes) if kind == "whole" else (layers, cache_bytes // layers)
            record[name] = told(seconds, batch, share) | {
                "share_of_bandwidth": cached * share / statistics.median(seconds) / machine.bandwidth,
                "times_roofline": machine.times_roofline(statistics.median(seconds) / share, *costs[kind]),
            }
        for name in ("layer", "whole"):
            if (other := f"hugging_face_{name}") in record:
                record[name]["times_hugging_face"] = record[other]["ms"] / record[name]["ms"]
        if whole and batch == 1 and context == min(arguments.contexts):
            record["whole"]["first_token_ms"] = milliseconds(ours.first, context)
            if theirs is not None:
                record["hugging_face_whole"]["first_token_ms"] = milliseconds(theirs.first, context)
        if not whole and not arguments.layer:
            record["no_whole"] = f"the whole model's cache takes {of_layer * shape.layers / 2**30:.1f} GiB"
        return record

    def steps(self, ours: Ours, theirs: HuggingFace | None, whole: bool) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {}
        if not self.arguments.whole:
            found["attend"] = ours.attend
            if ours.rotates_on_read():
                found["unrotated"] = ours.attend_unrotated
            found["layer"] = ours.layer
            if theirs is not None:
                found["hugging_face_layer"] = theirs.layer
        if whole:
            found["whole"] = ours.whole
            if theirs is not None:
                found["hugging_face_whole"] = theirs.whole
        return found

    def costs(self, shape: Shape, batch: int, context: int, cache_bytes: int) -> dict[str, tuple[int, int]]:
        """FLOPs and bytes of a step; of one layer, or of the whole model."""
        attending = batch * shape.decoding.per_token * context
        attention = attending + batch * shape.decoding.linear
        weights = (shape.params - shape.embedding_params // 2) * self.dtype.itemsize  # of the embedding, batch rows
        return {
            "attend": (attending, cache_bytes),
            "unrotated": (attending, cache_bytes),
            "layer": (attention, cache_bytes + shape.attention_params_per_layer * self.dtype.itemsize),
            "whole": (
                attention * shape.layers + batch * (shape.ffn_flops + shape.head_flops),
                cache_bytes * shape.layers + weights,
            ),
        }


COLUMNS = f"{'':8} {'batch':>5} {'context':>7}  {'':12} {'ms':>9} {'p90':>9} {'tokens/s':>9} {'of bandwidth':>12} " + (
    f"{'roofline':>9} {'HF / it':>8} {'vLLM / it':>9} {'first ms':>9}"
)
NAMES = {
    "attend": "attend",
    "unrotated": "  unrotated",
    "layer": "layer",
    "hugging_face_layer": "  HF layer",
    "whole": "model",
    "hugging_face_whole": "  HF model",
    "vllm_whole": "  vLLM model",
}


def lines_of(cell: dict[str, Any]) -> list[str]:
    """Of the table, a line for each kind of step; the first says which cell it is."""
    begin = f"{cell['variant']:8} {cell['batch']:>5} {cell['context']:>7}"
    mark = " " if cell.get("larger_than_last_level_cache", True) else "*"
    lines: list[str] = []
    for name, shown in NAMES.items():
        if name in cell:
            one = cell[name]
            ratio, served, first = (one.get(key) for key in ("times_hugging_face", "times_vllm", "first_token_ms"))
            lines.append(
                f"{'' if lines else begin:22}{' ' if lines else mark} {shown:12} {one['ms']:>9.3f} "
                f"{one['p90_ms']:>9.3f} "
                f"{one['tokens_per_second']:>9.1f} {one['share_of_bandwidth']:>12.0%} {one['times_roofline']:>9.2f} "
                f"{'' if ratio is None else format(ratio, '.2f'):>8} "
                f"{'' if served is None else format(served, '.2f'):>9} "
                f"{'' if first is None else format(first, ',.0f'):>9}".rstrip()
            )
    for reason, shown in (("failed", "failed"), ("no_whole", "no model"), ("no_vllm", "no vLLM")):
        if reason in cell:
            lines.append(f"{'' if lines else begin:22}  {shown}: {cell[reason]}")
    return lines


def positive(word: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not word.isdecimal() or not (number := int(word)):
        raise argparse.ArgumentTypeError(f"{word}: expected a whole number of at least 1")
    return number


def sizes() -> list[str]:
    """The choices of `model=`."""
    return sorted(path.stem for path in (configs.CONFIG_DIR / "model").glob("*.yaml"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="350m", choices=sizes(), metavar="SIZE")
    parser.add_argument("--variants", nargs="+", choices=variants(), default=variants(), metavar="NAME")
    parser.add_argument("--contexts", nargs="+", type=positive, default=[1024, 8192, 32768], metavar="TOKENS")
    parser.add_argument("--batches", nargs="+", type=positive, default=[1, 8, 32], metavar="ROWS")
    parser.add_argument("--cache", type=positive, default=8, metavar="N", help="an N-th of MHA's cache (default 8)")
    parser.add_argument(
        "--own", nargs="+", metavar="KEY=VALUE", help="the variants' shape, instead of one matched to --cache"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=positive, default=20, help="timed at most, of each kind and cell (default 20)")
    parser.add_argument("--patience", type=float, default=4.0, metavar="SECONDS", help="for a cell's steps (default 4)")
    parser.add_argument("--memory", type=float, default=12.0, metavar="GIB", help="that a cache may take (default 12)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--layer", action="store_true", help="a layer's attention alone, not the whole model")
    only.add_argument("--whole", action="store_true", help="the whole model alone")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, metavar="FILE", help="cells as lines of JSON; what is there is kept")
    parser.add_argument("--quick", action="store_true", help="a cell of two variants at model=nano: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.model, arguments.variants, arguments.contexts = "nano", ["mha", "mfa_kr"], [64]
        arguments.batches, arguments.steps, arguments.patience = [2], LEAST_STEPS, 0.0
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.out and not arguments.out.parent.is_dir():
        parser.error(f"argument --out: {arguments.out.parent} is no folder")
    with torch.inference_mode():
        result = run(arguments)
    print(json.dumps(result))
    if all("failed" in cell for cell in result["cells"]):
        parser.exit(1)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(arguments)
    machine = bench.machine
    setting = {name: getattr(arguments, name) for name in ("model", "dtype", "cache", "own", "threads")}
    done = kept(arguments.out, setting)
    caches = " ".join(arguments.own) if arguments.own else f"caches of 1/{arguments.cache} of MHA's"
    print(
        f"{arguments.model}, {arguments.dtype}, {caches} at MHA's parameters; "
        f"{arguments.threads} threads\nlast-level cache {machine.last_level / 2**20:.0f} MiB, reduction "
        f"{machine.bandwidth / 1e9:.1f} GB/s, matrix product {machine.peak / 1e9:.0f} GFLOP/s\n\n{COLUMNS}"
    )
    asked = [(batch, context) for batch in arguments.batches for context in arguments.contexts]
    for variant in arguments.variants:
        for batch, context in asked:
            if (variant, batch, context) in done:
                print("\n".join(lines_of(done[variant, batch, context])))
        missing = [one for one in asked if (variant, *one) not in done]
        for measured in bench.cells(variant, missing) if missing else ():
            cell = setting | {"variant": variant} | measured
            done[variant, cell["batch"], cell["context"]] = cell
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(cell) + "\n")
            print("\n".join(lines_of(cell)), flush=True)
    return setting | {"last_level_cache_bytes": machine.last_level, "cells": list(done.values())}


def kept(out: Path | None, setting: dict[str, Any]) -> dict[tuple[str, int, int], dict[str, Any]]:
    """Cells of this setting that stand in the file."""
    if out is None or not out.exists():
        return {}
    cells = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    return {
        (cell["variant"], cell["batch"], cell["context"]): cell
        for cell in cells
        if setting.items() <= ({"own": None} | cell).items()
    }


if __name__ == "__main__":
    main()
