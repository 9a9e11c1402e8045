"""Configs become plain typed objects here, once; the only package that knows OmegaConf and Hydra."""

from mfa_train.config.budget_schema import MatchConfig, PlanConfig
from mfa_train.config.compose import (
    CONFIG_DIR,
    ComposeError,
    default_attention,
    differences,
    explained,
    from_hydra,
    load,
    of_run,
    to_yaml,
)
from mfa_train.config.launch_schema import ClusterConfig, SweepConfig
from mfa_train.config.reliability_schema import CheckpointConfig, GuardConfig
from mfa_train.config.requirements import require_choice, require_not_negative, require_positive
from mfa_train.config.schema import (
    RESUME,
    Config,
    DataConfig,
    InitializationConfig,
    ModelConfig,
    OptimizerConfig,
    SampleConfig,
    ScheduleConfig,
    TrackingConfig,
    TrainingConfig,
)
from mfa_train.config.sweeps import Member, members, require_one
from mfa_train.config.typed import typed

__all__ = [
    "CONFIG_DIR", "RESUME", "CheckpointConfig", "ClusterConfig", "ComposeError", "Config", "DataConfig", "GuardConfig",
    "InitializationConfig", "MatchConfig", "Member", "ModelConfig", "OptimizerConfig", "PlanConfig", "SampleConfig",
    "ScheduleConfig", "SweepConfig", "TrackingConfig", "TrainingConfig", "default_attention", "differences", "explained",
    "from_hydra", "load", "members", "of_run", "require_choice", "require_not_negative", "require_one",
    "require_positive", "to_yaml", "typed",
]
