"""Each variant's loss at the largest size and token budget, beside what its cache and its decoding cost."""

import numpy as np

from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.cells import by_seed, cells_of, set_intervals
from mfa_train.scaling.verdicts.known import loss_of, params_of


def at_largest(variants: dict[str, list[Run]], reference: str) -> list[dict]:
    """A row for each variant that the largest cell has: the last in which the reference stands beside most others.
    Empty where no two variants share a cell."""
    cells = cells_of([run for runs in variants.values() for run in runs])
    shared = [members for members in cells.values() if reference in members and len(members) > 1]
    if not shared:
        return []
    most = max(len(members) for members in shared)
    largest = [members for members in shared if len(members) == most][-1]
    rows: list[dict] = [
        {
            "accounting": "parameters",
            "variant": name,
            "size": size,
            "cell_tokens": tokens,
            "params": float(np.mean([params_of(run) for run in own])),
            "kv_bytes_per_token": _mean([run.kv_bytes_per_token for run in own]),
            "decode_flops_per_token": _mean([run.decode_flops_per_token for run in own]),
            "by_seed": by_seed(own, np.array([loss_of(run) for run in own])),
        }
        for (size, tokens), members in cells.items()
        for name, own in members.items()
    ]
    set_intervals(rows)
    cell = next(cell for cell, members in cells.items() if members is largest)
    found = [row for row in rows if (row["size"], row["cell_tokens"]) == cell]
    return [
        {key: value for key, value in row.items() if key not in ("by_seed", "accounting")}
        | {"seeds": len(row["by_seed"])}
        for row in found
    ]


def _mean(values: list[float | None]) -> float | None:
    """None where one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
