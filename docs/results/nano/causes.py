"""Prints what each suspected cause does to MFA's and MLA's held-out loss and to their difference, as README.md has it.

    python docs/results/nano/causes.py    # in the root of the repository

A unit is a size and seed; those that the ladder, `mla.zip` and `causes.zip` all have. Means over them with Student's
interval, which are not corrected.
"""

import functools
from pathlib import Path

import numpy as np

from mfa_train.scaling.study.gather import gather
from mfa_train.scaling.verdicts.paired import summary

HERE = Path(__file__).resolve().parent
UNITS = [(cell, seed) for cell, seeds in (("kv192-280k", (1, 2, 3)), ("kv384-570k", (1, 2))) for seed in seeds]
BUDGETS = ("1.13M", "2.26M")
MFA, MLA = "mfa", "mla"
SETTINGS = {
    "as in the ladder": (MFA, MLA),
    "MFA matched by its heads": ("mfa_by_heads", MLA),
    "output projections start at zero": ("mfa_zero_output", "mla_zero_output"),
    "half the learning rate": ("mfa_half_rate", "mla_half_rate"),
    "twice the learning rate": ("mfa_double_rate", "mla_double_rate"),
    "MLA's query of full rank": (MFA, "mla_full_query"),
}


def main() -> None:
    _row(
        "",
        "MFA: 1.13M / 2.26M",
        "MLA: 1.13M / 2.26M",
        "MFA − MLA, 1.13M",
        "MFA − MLA, 2.26M",
        "that less the ladder's, 1.13M",
        "the same, 2.26M",
    )
    _row("---", *["---:"] * 6)
    ladder = [_losses(MFA, budget) - _losses(MLA, budget) for budget in BUDGETS]
    for setting, (mfa, mla) in SETTINGS.items():
        apart = [_losses(mfa, budget) - _losses(mla, budget) for budget in BUDGETS]
        _row(
            setting,
            _change(mfa, MFA),
            _change(mla, MLA),
            *map(_interval, apart),
            *("" if setting == "as in the ladder" else _interval(own - usual) for own, usual in zip(apart, ladder)),
        )
    print()
    best = {attention: _at_its_best(attention) for attention in ("mfa", "mla")}
    _row(
        "MFA − MLA, each at its best of three rates at each size",
        *(_interval(best["mfa"][budget] - best["mla"][budget]) for budget in BUDGETS),
    )


@functools.cache
def _loss_of() -> dict[str, float]:
    """By the run's name."""
    return {run.name: run.loss for run in gather([HERE / f"{name}.zip" for name in ("ladder", "mla", "causes")]).used}


def _losses(variant: str, budget: str) -> np.ndarray:
    return np.array([_loss_of()[f"{variant}-{cell}-{budget}-seed{seed}"] for cell, seed in UNITS])


def _at_its_best(attention: str) -> dict[str, np.ndarray]:
    """By the mean over a size's seeds."""
    tried = (attention, f"{attention}_half_rate", f"{attention}_double_rate")
    best = {}
    for budget in BUDGETS:
        losses = np.array([_losses(variant, budget) for variant in tried])
        sizes = [[index for index, unit in enumerate(UNITS) if unit[0] == cell] for cell in dict(UNITS)]
        best[budget] = np.concatenate([losses[losses[:, own].mean(axis=1).argmin(), own] for own in sizes])
    return best


def _change(variant: str, usual: str) -> str:
    if variant == usual:
        return ""
    return " / ".join(f"{(_losses(variant, budget) - _losses(usual, budget)).mean():+.3f}" for budget in BUDGETS)


def _interval(values: np.ndarray) -> str:
    found = summary(values)["interval"]
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _row(*cells) -> None:
    print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
