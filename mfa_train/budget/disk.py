"""What a run's checkpoints take on the disk: at a time, and how much is written in an hour."""

import math

import torch

from mfa_train.budget.units import over, times, together
from mfa_train.config import Config

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: master weight and two moments, float32, whatever the ZeRO stage and the number of ranks."""
OF_AVERAGE = 4
"""More, with training.ema."""

HOUR = 3600


def disk_of(config: Config, params: int, dtype: torch.dtype, step_seconds: float | None, branches_at: int = 0) -> dict:
    """`disk` of a plan, bytes: of one checkpoint, of those that are there at once at most (one that is being written
    and the final weights, with their average, too), and written in an hour, or in the run where it is shorter; null
    where the step's seconds are unknown. `branches_at`: the step behind which a ladder's branch begins."""
    keys, last = config.checkpoint, config.training.total_steps
    checkpoint, final = BYTES_PER_PARAMETER * params, dtype.itemsize * params
    if config.training.ema is not None:
        checkpoint, final = checkpoint + OF_AVERAGE * params, 2 * final

    def multiples(steps: int) -> int:
        return last // steps - branches_at // steps

    by_steps = multiples(keys.every_steps) if keys.every_steps else 0
    if not keys.every_steps or last % keys.every_steps:
        by_steps += 1  # the last step is always saved
    named = {step for step in keys.at_steps if branches_at < step <= last}
    for_good = len(named)
    if keys.every_steps and keys.keep_every:
        for_good += multiples(math.lcm(keys.every_steps, keys.keep_every))
    newest = keys.keep_last if keys.every_minutes else min(keys.keep_last, by_steps)
    kept = newest + for_good
    at_once = kept + (1 if keys.every_minutes or by_steps > newest else 0)
    at_once += config.checkpoint.upload is not None  # one stays till it is uploaded
    besides = {step for step in named if step != last and (not keys.every_steps or step % keys.every_steps)}
    in_an_hour = _saves_in_an_hour(
        config, step_seconds, times(step_seconds, last - branches_at), by_steps + len(besides)
    )
    return {
        "checkpoint_bytes": checkpoint,
        "checkpoints_kept": kept,
        "final_weights_bytes": final,
        "most_bytes": at_once * checkpoint + final,
        "saves_per_hour": in_an_hour,
        "bytes_per_hour": times(in_an_hour, checkpoint),
    }


def _saves_in_an_hour(
    config: Config, step_seconds: float | None, run_seconds: float | None, saves_by_steps: int
) -> float | None:
    """At most those of the run; None where its time is not known."""
    keys = config.checkpoint
    if run_seconds is not None and run_seconds < HOUR:
        return saves_by_steps + (run_seconds // (60 * keys.every_minutes) if keys.every_minutes else 0)
    return together(
        over(HOUR, times(keys.every_steps, step_seconds)) if keys.every_steps else 0.0,
        60 / keys.every_minutes if keys.every_minutes else 0.0,
    )
