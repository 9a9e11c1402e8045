"""Prints tables of runs as README.md has them: losses at the largest token budget, and differences budget by budget.

    python docs/results/nano/tables.py docs/results/nano/runs    # in the root of the repository
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from mfa_train.scaling.compare import compare
from mfa_train.scaling.measured import Measured, difference_at_equal_flops
from mfa_train.scaling.runs import Run
from mfa_train.scaling.study import gather

WAITED_FOR = 4.5
"""Training loss, nats per token."""


def main() -> None:
    typed = argparse.ArgumentParser()
    typed.add_argument("runs", nargs="+", type=Path)
    study = gather(typed.parse_args().runs)
    variants = study.variants()
    losses(variants)
    print()
    largest = compare(gather([Path(run.source) for runs in variants.values() for run in _largest(runs)]))
    differences(variants, compare(study)["verdicts"], {(row["a"], row["b"]): row for row in largest["verdicts"]})


def losses(variants: dict[str, list[Run]]) -> None:
    params = {run.size: run.params for runs in variants.values() for run in runs}
    sizes = sorted(params, key=params.get)
    _row("variant", *(f"{size}: loss" for size in sizes), *(f"{size}: tokens to {WAITED_FOR}" for size in sizes))
    _row("---", *["---:"] * 2 * len(sizes))
    for name, runs in variants.items():
        of_size = [[run for run in _largest(runs) if run.size == size] for size in sizes]
        _row(name, *(" / ".join(f"{run.loss:.3f}" for run in own) for own in of_size),
             *(" / ".join(map(_waited, own)) for own in of_size))


def differences(variants: dict[str, list[Run]], verdicts: list[dict], of_largest: dict) -> None:
    """First less second. A budget's mean is over sizes and seeds, with Student's interval; p is Holm's, of all pairs of
    variants."""
    named = {run.name: run for runs in variants.values() for run in runs}
    measured = {name: Measured(runs) for name, runs in variants.items()}
    _row("pair", "by budget", "the largest", "p (Holm)", "all", "p (Holm)", "the largest, equal FLOPs")
    _row("---", *["---:"] * 6)
    for row in verdicts:
        units = defaultdict(list)
        for one, other, _ in row["runs"]:
            units[named[one].size, named[one].seed].append((named[one], named[other]))
        budgets = list(zip(*(sorted(pairs, key=lambda pair: pair[0].tokens) for pairs in units.values())))
        at_flops = [difference_at_equal_flops(*pair, measured[row["a"]], measured[row["b"]]) for pair in budgets[-1]]
        _row(f"{row['a']} − {row['b']}",
             " / ".join(f"{np.mean([one.loss - other.loss for one, other in pairs]):+.3f}" for pairs in budgets),
             _interval(of_largest[row["a"], row["b"]]["difference"]), _p(of_largest[row["a"], row["b"]]["p_holm"]),
             _interval(row["difference"]), _p(row["p_holm"]), "–" if None in at_flops else _interval(_student(at_flops)))


def _largest(runs: list[Run]) -> list[Run]:
    """Those of their size's and seed's largest budget, by seed."""
    most = defaultdict(int)
    for run in runs:
        most[run.size, run.seed] = max(most[run.size, run.seed], run.tokens)
    return sorted((run for run in runs if run.tokens == most[run.size, run.seed]), key=lambda run: run.seed)


def _waited(run: Run) -> str:
    """Tokens at the first record of metrics.jsonl with a training loss below WAITED_FOR."""
    for line in (Path(run.source) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record.get("train/loss", WAITED_FOR) < WAITED_FOR:
            return f"{record['tokens'] / 1e3:.0f}K"
    return "–"


def _student(values: list[float]) -> dict:
    if len(values) < 2:
        return {"value": np.mean(values), "low": None, "high": None}
    mean, half = np.mean(values), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"value": mean, "low": mean - half, "high": mean + half}


def _interval(value: dict) -> str:
    return f"{value['value']:+.3f}" + ("" if value["low"] is None else f" [{value['low']:+.3f}, {value['high']:+.3f}]")


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _row(*cells) -> None:
    print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
