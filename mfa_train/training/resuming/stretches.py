"""From which step a run was trained with which settings: what its loss curve is a function of, beside what never
changes.

A run that goes on with other settings begins a new stretch; the list travels with the checkpoints, so a run that starts
from another's has that one's up to there, and summary.json holds all of them. A run is what its config says (and would
be again, trained from the start) where every earlier stretch is, step by step, what the last one's settings would have
had it be: so are a run that was killed and went on, and one that branches off another before either's learning rate
decays.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mfa_train.config import ScheduleConfig
from mfa_train.config.effects import EXECUTION, OBSERVATION
from mfa_train.errors import ConfigError
from mfa_train.training.steps.schedule import decay_start, learning_rate

HARMLESS = (
    *EXECUTION,
    *OBSERVATION,
    "training.eval_sequences",
    "model.learning_rate",
    "model.max_position_embeddings",
    "data.",
    "plan.",
    "processes",
)
"""Beginnings of keys that may change on the way: rounding alone, or what is looked at. Data are told apart by what they
are, `model.learning_rate` by optimizer.lr, which it gives."""
SCHEDULE = ("name", "warmup_steps", "min_lr_ratio", "decay_fraction")
RATE = ("optimizer.lr", "training.steps", *(f"schedule.{key}" for key in SCHEDULE))
"""Together these make the learning rate of a step, and nothing else."""
LOOKED_AT = 64
"""Steps of a stretch, evenly, beside those where a schedule bends."""
MOST_STEPS = 10**15
ROUNDING = 1e-9
"""Of the peak: learning rates as near as that are one."""


def continued(stretches: Sequence[dict], step: int, settings: Mapping[str, Any]) -> list[dict]:
    """The stretches of a run that goes on after `step` with `settings`: a new one where they are others. Where nothing
    is known of the steps before (a checkpoint of an older version), the first one begins later than 0."""
    before = [one for one in stretches if one["from_step"] < step]
    if before and all(before[-1].get(key, value) == value for key, value in settings.items()):
        return before
    return [*before, {"from_step": step, **settings}]


def spliced(stretches: Sequence[Mapping[str, Any]]) -> str | None:
    """What an earlier stretch had that the last one's settings would not have given it; None where all are one curve. A
    key that a stretch lacks is one that its version did not know, and changed nothing."""
    last = stretches[-1]
    for one, following in itertools.pairwise(stretches):
        begin, end = one["from_step"], following["from_step"]
        keys = [key for key in sorted(one.keys() & last.keys()) if key != "from_step" and one[key] != last[key]]
        others = [key for key in keys if key not in RATE]
        if len(others) < len(keys) and not _same_rate(one, last, begin, end):
            others = keys
        if others:
            theirs = ", ".join(f"{key}={one[key]}" for key in others[:3])
            ours = ", ".join(str(last[key]) for key in others[:3])
            return f"steps {begin + 1} to {end} were trained with {theirs}, those since with {ours}"
    return None


def rate_of(settings: Mapping[str, Any]) -> Callable[[int], float] | None:
    """The learning rate as a function of the step, counted from 0; None where `settings` do not tell it."""
    try:
        schedule = ScheduleConfig(*(settings[f"schedule.{key}"] for key in SCHEDULE))
        peak, steps = float(settings["optimizer.lr"]), int(settings["training.steps"])
        if not max(steps, schedule.warmup_steps) <= MOST_STEPS:
            return None
        learning_rate(schedule, peak, 0, steps)
    except (ConfigError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return lambda step: learning_rate(schedule, peak, step, steps)


def _same_rate(one: Mapping[str, Any], last: Mapping[str, Any], begin: int, end: int) -> bool:
    """Whether both give the steps from `begin` to before `end` the same learning rates."""
    mine, theirs = rate_of(one), rate_of(last)
    if mine is None or theirs is None:
        return False
    steps = {begin + (end - 1 - begin) * part // LOOKED_AT for part in range(LOOKED_AT + 1)}
    for settings in (one, last):
        schedule = ScheduleConfig(*(settings[f"schedule.{key}"] for key in SCHEDULE))
        bends = schedule.warmup_steps, decay_start(schedule, int(settings["training.steps"]))
        steps |= {bend + beside for bend in bends for beside in (-1, 0, 1)}
    near = ROUNDING * max(float(one["optimizer.lr"]), float(last["optimizer.lr"]))
    return all(abs(mine(step) - theirs(step)) <= near for step in steps if begin <= step < end)
