"""What people call a size of models: 280k, 7b."""

from collections import defaultdict

import numpy as np

from mfa_train.scaling.study.runs import Run

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def size_names(runs: list[Run]) -> dict[str, str]:
    """Of each size among the runs, the smallest first, its name: `model.name` of their configs where all of the size
    have it and no other size does, else the number of parameters. Of two sizes with as many parameters depth x width
    stands behind it."""
    of_size = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.params or 0):
        if run.size is not None:
            of_size[run.size].append(run)
    given = {size: {str(run.config.get("model.name") or "") for run in own} for size, own in of_size.items()}
    names = {size: next(iter(one)) if len(one) == 1 else "" for size, one in given.items()}
    if "" in names.values() or len(set(names.values())) < len(names):
        counts = {size: [run.params for run in own if run.params] for size, own in of_size.items()}
        names = {size: count_name(float(np.mean(own))) if own else size for size, own in counts.items()}
        twice = {name for name in names.values() if list(names.values()).count(name) > 1}
        names = {size: f"{name} ({size})" if name in twice else name for size, name in names.items()}
    return names


def count_name(count: float, digits: int = 2) -> str:
    """282,048 as 280k, 2.26e6 to three digits as 2.26M."""
    rounded = float(f"{count:.{digits}g}")
    for unit, sign in UNITS:
        if rounded >= unit:
            return f"{rounded / unit:.{max(digits, 3)}g}{sign}"
    return f"{rounded:g}"
