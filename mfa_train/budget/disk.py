"""What a run's checkpoints take on the disk, at a time and in an hour."""

import math

import torch

from mfa_train.budget.units import over, together
from mfa_train.config import Config

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: master weight and two moments, float32, whatever the ZeRO stage and the number of ranks."""


def disk_of(config: Config, params: int, dtype: torch.dtype, step_seconds: float | None) -> dict:
    """`disk` of a plan, bytes: of one checkpoint, of those that are there at once at most (one that is being written
    and the final weights too), and written in an hour; null where the step's seconds are unknown."""
    keys, steps = config.checkpoint, config.training.total_steps
    checkpoint, final = BYTES_PER_PARAMETER * params, dtype.itemsize * params
    by_steps = -(-steps // keys.every_steps) if keys.every_steps else 1  # the last step is always saved
    for_good = sum(step <= steps for step in keys.at_steps)
    if keys.every_steps and keys.keep_every:
        for_good += steps // math.lcm(keys.every_steps, keys.keep_every)
    newest = keys.keep_last if keys.every_minutes else min(keys.keep_last, by_steps)
    kept = newest + for_good
    at_once = kept + (1 if keys.every_minutes or by_steps > newest else 0)
    an_hour = together(
        over(3600, step_seconds and keys.every_steps and keys.every_steps * step_seconds) if keys.every_steps else 0.0,
        60 / keys.every_minutes if keys.every_minutes else 0.0,
    )
    return {
        "checkpoint_bytes": checkpoint,
        "checkpoints_kept": kept,
        "final_weights_bytes": final,
        "most_bytes": at_once * checkpoint + final,
        "saves_per_hour": an_hour,
        "bytes_per_hour": an_hour and an_hour * checkpoint,
    }
