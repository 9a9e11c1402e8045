"""The part of the schema that is about training at growing lengths: the stages of `training.sequence_schedule`.

A stage begins with a whole step, the first before which its tokens are trained on: where a run stands is a function of
its steps alone. Whether an attention can be turned as a stage says: `mfa_train.attention.stages`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mfa_train.config.requirements import SEQUENCE, require_positive, require_whole
from mfa_train.errors import ConfigError
from mfa_train.words import brief

KEY = "training.sequence_schedule"
EXAMPLE = "[{from_tokens: 0, sequence_length: 256}, {from_tokens: 1e9, sequence_length: 1024}]"
UNSCALED = "none"


@dataclass
class StageConfig:
    """From some tokens of the run on: sequences of this length, and where said other rotations than the
    attention's."""

    from_tokens: int
    sequence_length: int
    rope_theta: float | None = None
    """null: attention.rope_theta."""
    rope_scaling: Any = None
    """null: attention.rope_scaling; none: no scaling; else keys as that has."""

    @property
    def rope(self) -> dict[str, Any]:
        """Of the node `attention` what this stage has otherwise."""
        given: dict[str, Any] = {} if self.rope_theta is None else {"rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            given["rope_scaling"] = None if self.rope_scaling == UNSCALED else self.rope_scaling
        return given


@dataclass(frozen=True)
class Stage:
    """Of a run: behind `first_step` steps it trains on sequences of this length."""

    first_step: int
    sequence_length: int
    rope: dict[str, Any]
    """Of the node `attention` what is otherwise."""


def stages_of(schedule: Sequence[StageConfig], tokens_per_step: int) -> list[Stage]:
    return [Stage(-(-one.from_tokens // tokens_per_step), one.sequence_length, one.rope) for one in schedule]


def require_schedule(schedule: Sequence[StageConfig], sequence_length: int, tokens_per_step: int) -> None:
    """Raises ConfigError for stages that are none of a run whose samples have `sequence_length`."""
    if not schedule:
        raise ConfigError(f"{KEY}=[]: expected stages, as {EXAMPLE}, or null for one length")
    for number, one in enumerate(schedule):
        require_whole(f"{KEY}[{number}].from_tokens", one.from_tokens, 0, 10**18)
        require_positive(f"{KEY}[{number}].sequence_length", one.sequence_length, SEQUENCE)
        if not isinstance(one.rope_scaling, dict) and one.rope_scaling not in (None, UNSCALED):
            raise ConfigError(
                f"{KEY}[{number}].rope_scaling={brief(one.rope_scaling)}: expected keys as attention.rope_scaling "
                "has, none for no scaling, or null for the attention's own"
            )
    if schedule[0].from_tokens:
        raise ConfigError(f"{KEY}[0].from_tokens={schedule[0].from_tokens}: the first stage begins the run: type 0")
    stages, last = stages_of(schedule, tokens_per_step), len(schedule) - 1
    for number, (before, stage) in enumerate(pairwise(stages), start=1):
        key = f"{KEY}[{number}]"
        if stage.sequence_length % before.sequence_length:
            near = max(1, round(stage.sequence_length / before.sequence_length)) * before.sequence_length
            raise ConfigError(
                f"{key}.sequence_length={stage.sequence_length}: expected a multiple of the stage before's "
                f"{before.sequence_length}, as {near}"
            )
        if stage.first_step <= before.first_step:
            raise ConfigError(
                f"{key}.from_tokens={schedule[number].from_tokens}: with steps of {tokens_per_step} tokens this stage "
                f"would begin no later than the one before: type {(before.first_step + 1) * tokens_per_step} or more"
            )
    if stages[last].sequence_length != sequence_length:
        raise ConfigError(
            f"{KEY}[{last}].sequence_length={stages[last].sequence_length}: the last stage's is "
            f"training.sequence_length={sequence_length}: type training.sequence_length="
            f"{stages[last].sequence_length}, or a stage of {sequence_length} behind it"
        )
    if stages[last].rope:
        name = next(iter(stages[last].rope))
        raise ConfigError(
            f"{KEY}[{last}].{name}: the last stage's rotations are the attention's own, by which its weights are read "
            f"ever after: type attention.{name}=… instead"
        )


def require_last_stage(schedule: Sequence[StageConfig], tokens_per_step: int, steps: int) -> None:
    """Raises ConfigError where a run of so many steps ends before its last stage."""
    if stages_of(schedule, tokens_per_step)[-1].first_step >= steps:
        raise ConfigError(
            f"{KEY}[{len(schedule) - 1}].from_tokens={schedule[-1].from_tokens}: a run of {steps} steps has "
            f"{steps * tokens_per_step} tokens and would end before its last stage: type fewer, or train longer"
        )
