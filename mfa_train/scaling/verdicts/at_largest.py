"""Each variant's loss at the largest size and token budget, beside what its cache and its decoding cost."""

import numpy as np

from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.cells import cells_of, measured_rows, set_intervals
from mfa_train.scaling.verdicts.known import params_of


def at_largest(variants: dict[str, list[Run]], reference: str) -> list[dict]:
    """A row for each variant that the largest cell has: the last in which the reference stands beside most others.
    A variant alone has its own largest. Empty where no two of several share a cell."""
    cells = cells_of([run for runs in variants.values() for run in runs])
    least = min(2, len(variants))
    shared = {cell: members for cell, members in cells.items() if reference in members and len(members) >= least}
    if not shared:
        return []
    most = max(len(members) for members in shared.values())
    cell, largest = [one for one in shared.items() if len(one[1]) == most][-1]
    rows = measured_rows(cells)
    set_intervals(rows)
    return [
        {
            "variant": row["variant"],
            "size": row["size"],
            "cell_tokens": row["cell_tokens"],
            "params": float(np.mean([params_of(run) for run in largest[row["variant"]]])),
            "kv_bytes_per_token": _mean([run.kv_bytes_per_token for run in largest[row["variant"]]]),
            "decode_flops_per_token": _mean([run.decode_flops_per_token for run in largest[row["variant"]]]),
            "loss": row["loss"],
            "spread": row["spread"],
            "seeds": len(row["by_seed"]),
        }
        for row in rows
        if (row["size"], row["cell_tokens"]) == cell
    ]


def _mean(values: list[float | None]) -> float | None:
    """None where one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
