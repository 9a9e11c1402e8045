"""Configs become plain typed objects here, once; the only package that knows OmegaConf and Hydra.

What is typed goes through these files, and each may refuse it (ConfigError, one line):

    overrides.py     what is typed, as it was meant
    sweeps.py        the members of a sweep
    compose.py       Hydra puts configs/ and what is typed together; hydra_errors.py says what it could not, and
                     choices.py which choices have a key that the chosen one lacks
    secrets.py       no credentials in a value
    family.py        a group whose choices are a class each, which says its keys
    typed.py         every value of its type, no unknown key, none missing
    *_schema.py      the keys and what each may be; schema.py has the whole, requirements.py the checks

    run_config.py    a run's config.yaml, written and read again; yaml_file.py reads and writes YAML
"""

from mfa_train.config.budget_schema import MatchConfig, PlanConfig
from mfa_train.config.choices import choices_of
from mfa_train.config.compose import default_attention, default_feed_forward, differences, load
from mfa_train.config.data_schema import DataConfig
from mfa_train.config.evaluation_schema import EvaluationConfig
from mfa_train.config.hydra_errors import ComposeError, explained
from mfa_train.config.ladder_schema import LadderConfig, RungConfig
from mfa_train.config.launch_schema import ClusterConfig
from mfa_train.config.model_schema import InitializationConfig, ModelConfig
from mfa_train.config.overrides import CONFIG_DIR, as_meant, written
from mfa_train.config.places import local
from mfa_train.config.reliability_schema import CheckpointConfig, GuardConfig
from mfa_train.config.requirements import require_choice, require_number, require_positive, require_whole
from mfa_train.config.run_config import completed, of_run, plain, to_yaml
from mfa_train.config.schema import RESUME, Config, SampleConfig, TrackingConfig
from mfa_train.config.secrets import hidden
from mfa_train.config.sweeps import Member, as_name, cut, members, require_one
from mfa_train.config.training_schema import ScheduleConfig
from mfa_train.config.typed import flat, typed

__all__ = [
    "CONFIG_DIR",
    "RESUME",
    "CheckpointConfig",
    "ClusterConfig",
    "ComposeError",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GuardConfig",
    "InitializationConfig",
    "LadderConfig",
    "MatchConfig",
    "Member",
    "ModelConfig",
    "PlanConfig",
    "RungConfig",
    "SampleConfig",
    "ScheduleConfig",
    "TrackingConfig",
    "as_meant",
    "as_name",
    "choices_of",
    "completed",
    "cut",
    "default_attention",
    "default_feed_forward",
    "differences",
    "explained",
    "flat",
    "hidden",
    "load",
    "local",
    "members",
    "of_run",
    "plain",
    "require_choice",
    "require_number",
    "require_one",
    "require_positive",
    "require_whole",
    "to_yaml",
    "typed",
    "written",
]
