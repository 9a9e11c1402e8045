"""Prints tables of runs as README.md has them: losses at the largest token budget, and differences budget by budget and
at equal FLOPs; and how long the runs took.

    python docs/results/nano/tables.py docs/results/nano/ladder.zip    # in the root of the repository
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from mfa_train.scaling.compare import compare
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.measured import Measured, difference_at_equal_flops
from mfa_train.scaling.verdicts.paired import summary, verdicts

WAITED_FOR = 4.5
"""Training loss, nats per token."""


def main() -> None:
    typed = argparse.ArgumentParser()
    typed.add_argument("runs", nargs="+", type=Path)
    study = gather(typed.parse_args().runs)
    variants = study.variants()
    losses(variants)
    print()
    largest = verdicts(
        {name: _largest(runs) for name, runs in variants.items()}, {name: VariantFit("none") for name in variants}
    )
    of_all = compare(study)["verdicts"]
    differences(variants, of_all, {(row["a"], row["b"]): row for row in largest})
    print()
    at_equal_flops(variants, of_all)
    print(f"\n{len(study.used)} runs, {sum(map(_trained, study.used)) / 3600:.1f} hours of one process")


def losses(variants: dict[str, list[Run]]) -> None:
    params = {run.size: run.params for runs in variants.values() for run in runs}
    sizes = sorted(params, key=params.get)
    _row("variant", *(f"{size}: loss" for size in sizes), *(f"{size}: tokens to {WAITED_FOR}" for size in sizes))
    _row("---", *["---:"] * 2 * len(sizes))
    for name, runs in variants.items():
        of_size = [[run for run in _largest(runs) if run.size == size] for size in sizes]
        _row(
            name,
            *(" / ".join(f"{run.loss:.3f}" for run in own) for own in of_size),
            *(" / ".join(map(_waited, own)) for own in of_size),
        )


def differences(variants: dict[str, list[Run]], of_all: list[dict], of_largest: dict) -> None:
    """First less second. A budget's mean is over sizes and seeds, with Student's interval; p is Holm's, of all pairs of
    variants."""
    _row("pair", "by budget", "the largest", "p (Holm)", "all", "p (Holm)")
    _row("---", *["---:"] * 5)
    for row in of_all:
        largest = of_largest[row["a"], row["b"]]
        means = (np.mean([one.loss - other.loss for one, other in pairs]) for pairs in _budgets(variants, row))
        _row(
            f"{row['a']} − {row['b']}",
            " / ".join(f"{mean:+.3f}" for mean in means),
            _interval(largest["difference"]),
            _p(largest["p_holm"]),
            _interval(row["difference"]),
            _p(row["p_holm"]),
        )


def at_equal_flops(variants: dict[str, list[Run]], of_all: list[dict]) -> None:
    """First less second, of the largest budget and of all."""
    measured = {name: Measured(runs) for name, runs in variants.items()}
    _row("pair, equal FLOPs", "the largest", "all", "p (Holm)")
    _row("---", *["---:"] * 3)
    for row in of_all:
        moved = [
            difference_at_equal_flops(*pair, measured[row["a"]], measured[row["b"]])
            for pair in _budgets(variants, row)[-1]
        ]
        _row(
            f"{row['a']} − {row['b']}",
            "–" if None in moved else _interval(summary(np.array(moved))["interval"]),
            _interval(row["difference_at_equal_flops"]),
            _p(row["p_holm_at_equal_flops"]),
        )


def _budgets(variants: dict[str, list[Run]], verdict: dict) -> list[tuple[tuple[Run, Run], ...]]:
    """The verdict's pairs, a pair of each size and seed for every budget, the smallest first."""
    named = {run.name: run for runs in variants.values() for run in runs}
    units = defaultdict(list)
    for one, other, _ in verdict["runs"]:
        units[named[one].size, named[one].seed].append((named[one], named[other]))
    return list(zip(*(sorted(pairs, key=lambda pair: pair[0].tokens) for pairs in units.values()), strict=True))


def _largest(runs: list[Run]) -> list[Run]:
    """Those of their size's and seed's largest budget, by seed."""
    most = defaultdict(int)
    for run in runs:
        most[run.size, run.seed] = max(most[run.size, run.seed], run.tokens)
    return sorted((run for run in runs if run.tokens == most[run.size, run.seed]), key=lambda run: run.seed)


def _waited(run: Run) -> str:
    """Tokens at the first record with a training loss below WAITED_FOR."""
    for record in run.curve:  # whole: compare thins those of more than 160 records, these have some 50
        if record["train/loss"] is not None and record["train/loss"] < WAITED_FOR:
            return f"{record['tokens'] / 1e3:.0f}K"
    return "–"


def _trained(run: Run) -> float:
    """Seconds, of a branch without what came before it."""
    before = run.config["resume"].rpartition("/step-")[2]
    if not before.isdigit():
        return run.seconds
    tokens = int(before) * run.config["training.batch_size"] * run.config["training.sequence_length"]
    return run.seconds - np.interp(tokens, *zip(*((record["tokens"], record["seconds"]) for record in run.curve)))


def _interval(value: dict | None) -> str:
    return (
        "–"
        if value is None
        else f"{value['value']:+.3f}"
        + ("" if value["low"] is None else f" [{value['low']:+.3f}, {value['high']:+.3f}]")
    )


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _row(*cells) -> None:
    print("|", " | ".join(map(str, cells)), "|")


if __name__ == "__main__":
    main()
