"""Whether DeepSpeed knows what the node `deepspeed` gives it, asked of its own schemas before anything expensive."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mfa_train.config import Config
from mfa_train.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel


def require_known(config: Config) -> None:
    """Raises ConfigError for a key that DeepSpeed lacks, or a value that it doesn't take. DeepSpeed is imported only
    where the node gives something."""
    if not config.deepspeed:
        return
    if not torch.cuda.is_available():  # as `ranks.join`, before the import
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from mfa_train.training.steps.engine import import_deepspeed

    import_deepspeed()
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    node = config.deepspeed
    timers = node.get("timers", {})
    if timers and (not isinstance(timers, Mapping) or timers.keys() != {"throughput"}):
        raise ConfigError(
            f"deepspeed.timers={timers}: expected its key throughput, as {{throughput: {{enabled: true}}}}"
        )
    for where, schema, fixed in (
        ("zero_optimization", DeepSpeedZeroConfig, {"stage": config.zero}),
        ("timers.throughput", DeepSpeedThroughputTimerConfig, {}),
        ("comms_logger", CommsLoggerConfig, {}),
    ):
        values: Any = node
        for name in where.split("."):
            values = values.get(name, {})
        _require(f"deepspeed.{where}", schema, values, fixed)


def _require(where: str, schema: "type[BaseModel]", values: Any, fixed: dict[str, Any]) -> None:
    from pydantic import ValidationError

    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}={values}: expected keys with values")
    known = {name for key, field in schema.model_fields.items() for name in (key, field.alias) if name}
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}.{key}: no such key.{did_you_mean(str(key), known)}")
    try:
        schema(**values, **fixed)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (where, *first["loc"])))
        raise ConfigError(f"{key}={first.get('input')}: DeepSpeed refuses it: {first['msg']}") from error
