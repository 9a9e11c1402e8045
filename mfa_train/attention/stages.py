"""How an attention turns positions in a stage of `training.sequence_schedule`: rotations are no parameters, and may be
others while sequences are shorter."""

import copy

from mfa_train.attention import AttentionConfig, attention_class, attention_config
from mfa_train.attention.rope import Rope
from mfa_train.config import Config
from mfa_train.config.sequence_schema import KEY, Stage
from mfa_train.errors import ConfigError


def require_stages(config: Config) -> None:
    """Raises ConfigError for a schedule that the run is too short for and, by the stage's key, for rotations that the
    attention cannot be given."""
    config.training.require_last_stage()
    for number, stage in enumerate(config.training.stages):
        if stage.rope:
            try:
                _attention_in(config, stage)
            except ConfigError as error:
                raise ConfigError(str(error).replace("attention.rope_", f"{KEY}[{number}].rope_", 1)) from error


def rope_of(config: Config, stage: Stage) -> Rope:
    """The rotations of one stage. Raises ConfigError."""
    attention = _attention_in(config, stage)
    return attention_class(attention.name).make_rope(attention)


def config_of_step(config: Config, step: int) -> Config:
    """`config` with the attention as it was in the stage of a step, the first being 0: as weights behind it were
    trained."""
    stage = config.training.stage_of(step)
    if not stage.rope:
        return config
    then = copy.copy(config)  # not made anew: what a run was started with may be refused today
    then.attention = config.attention | stage.rope
    return then


def _attention_in(config: Config, stage: Stage) -> AttentionConfig:
    return attention_config(config.attention | stage.rope)
