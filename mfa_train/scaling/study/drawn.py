"""Of very many runs some are compared: what laws and verdicts say is then hardly another, and all would take hours.

Whole units are drawn, the runs that share a size and a seed, the same of every variant, so that pairs stay pairs and
curves over tokens stay whole. Where units are few, or seeds unknown, rows are. A variant of few runs is kept, and its
units are.
"""

import zlib
from collections import Counter, defaultdict
from collections.abc import Hashable

from mfa_train.scaling.study.runs import Run

NOT_DRAWN = "not drawn: more runs than are compared"
"""Why a run takes no part that is no less than others; fit.json and the page don't list it."""
COMPARED = 6_000
PAIRS = 300_000
"""Runs × variants: where these are many, fewer runs are compared."""
FEW_UNITS = 200


def draw(used: list[Run]) -> str | None:
    """Leaves out what is not drawn; what is to be said of it, None where all are compared."""
    counts = Counter(run.variant for run in used)
    most = min(COMPARED, PAIRS // len(counts))
    if len(used) <= most:
        return None
    rare = {variant for variant, count in counts.items() if count <= most // (2 * len(counts))}
    units = {_unit(run) for run in used}
    group = _unit if len(units) >= FEW_UNITS and None not in units else _row
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    holds_rare = set()
    for run in used:
        groups[key := group(run)].append(run)
        if run.variant in rare:
            holds_rare.add(key)
    drawn = sorted(groups, key=lambda key: (key not in holds_rare, zlib.crc32(repr(key).encode())))
    kept = 0
    for key in drawn:
        for run in groups[key]:
            if kept >= most and run.variant not in rare:
                run.excluded = NOT_DRAWN
            else:
                kept += 1
    what = "sizes and seeds" if group is _unit else "cells"
    return (
        f"{kept:,} of {len(used):,} runs are compared, drawn by their {what}, the same of every variant: name fewer "
        "to compare them all"
    )


def _unit(run: Run) -> Hashable:
    return (run.size, run.seed) if run.seed is not None else None


def _row(run: Run) -> Hashable:
    return run.size, f"{run.tokens:.3g}", run.seed if run.seed is not None else run.loss
