"""Held-out loss by position in the window, variants side by side: which of them go on gaining from what stands further
back. It is described, not tested: the verdicts are of the mean loss."""

from collections import defaultdict

import numpy as np

from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.verdicts.cells import cells_of

CONVENTION = (
    "held out, nats per token, of targets that could look at more tokens than the position before and at no more than "
    "the position (data.document_mask: of their own document); means over runs"
)


def loss_by_position(runs: list[Run]) -> list[dict]:
    """A row for each cell (size and token budget), variant and position that runs tell, smallest first; `before`: the
    loss before the first step, of runs that began with weights that were there."""
    rows = []
    for (size, tokens), members in cells_of([run for run in runs if run.by_position]).items():
        for variant, own in members.items():
            after = _means([run.by_position for run in own])
            before = _means([run.by_position_before for run in own])
            rows += [
                {
                    "variant": variant,
                    "size": size,
                    "cell_tokens": tokens,
                    "position": position,
                    "loss": loss,
                    "before": before.get(position),
                    "runs": len(own),
                }
                for position, loss in after.items()
            ]
    return rows


def _means(of_runs: list[dict[int, float]]) -> dict[int, float]:
    """Of each position over the runs that tell it."""
    found: dict[int, list[float]] = defaultdict(list)
    for by_position in of_runs:
        for position, loss in by_position.items():
            found[position].append(loss)
    return {position: float(np.mean(found[position])) for position in sorted(found)}
