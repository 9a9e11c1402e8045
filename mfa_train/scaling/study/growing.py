"""Runs at growing lengths (`training.sequence_schedule`). The order of their samples is that of a run of one length,
but early samples are cut: such runs make variants of their own, and are paired with those of the same schedule.

Where runs are compared `by` the schedule it is what is to be found out: pairs are then of one order, whatever its cuts.
"""

from collections.abc import Mapping
from typing import Any

from mfa_train.config.sequence_schema import KEY
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.runs import Run


def schedule_of(config: Mapping[str, Any]) -> str | None:
    """A flat config's schedule in words, as `256, 1024 from 1000000`: different where it is different; None without
    one."""
    if (stages := config.get(KEY)) is None:
        return None
    try:
        return shown(", ".join(map(_in_words, stages)))
    except (TypeError, KeyError, AttributeError):  # of a file that was changed by hand
        return shown(stages)


def lay_side_by_side(runs: list[Run], by: tuple[str, ...]) -> None:
    """Makes pairs of runs of different schedules where that is what they are compared by."""
    if KEY in by:
        for run in runs:
            run.order = run.order and run.order._replace(schedule=None)


def _in_words(stage: dict[str, Any]) -> str:
    begins = f" from {stage['from_tokens']}" if stage["from_tokens"] else ""
    others = {key: value for key, value in stage.items() if key not in ("from_tokens", "sequence_length")}
    turned = "".join(f" {key}={value}" for key, value in others.items() if value is not None)
    return f"{stage['sequence_length']}{begins}{turned}"
