"""Whether DeepSpeed knows what the node `deepspeed` gives it, asked of its own schemas before anything expensive; and
whether it means something at the run's stage, on its ranks, which DeepSpeed asserts while it starts, or never says.
"""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from mfa_train.config import Config
from mfa_train.config.quantities import whole
from mfa_train.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel


YES_OR_NO = ("memory_breakdown", "prescale_gradients", "wall_clock_breakdown")
OF_STAGE_3 = ("stage3_", "zero_hpz_partition_size", "zero_quantized_")
"""How keys of zero_optimization begin that other stages don't read."""


def require_known(config: Config, world_size: int) -> None:
    """Raises ConfigError for a key that DeepSpeed lacks, a value that it doesn't take, or one that says nothing to
    this run on `world_size` ranks. DeepSpeed is imported only where the node gives something."""
    if not config.deepspeed:
        return
    _require_meaning(config, world_size)
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


def _require_meaning(config: Config, world_size: int) -> None:
    """Raises ConfigError for what DeepSpeed would take for another value, not read, or assert."""
    node, stage = config.deepspeed, config.zero
    for key in YES_OR_NO:
        if not isinstance(node.get(key, False), bool):
            raise ConfigError(f"deepspeed.{key}={node[key]}: expected true or false")
    factor = node.get("gradient_predivide_factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
        raise ConfigError(f"deepspeed.gradient_predivide_factor={factor}: expected a number above 0, as 1.0")
    zero = node.get("zero_optimization", {})
    for key, value in zero.items():
        if stage == 0:
            raise ConfigError(
                f"deepspeed.zero_optimization.{key}={value}: zero=0 reads none of these: type zero=1, 2 or 3, or leave "
                "it out"
            )
        if stage < 3 and str(key).startswith(OF_STAGE_3):
            raise ConfigError(
                f"deepspeed.zero_optimization.{key}={value}: zero={stage} reads none such: type zero=3, or leave it out"
            )
    group = zero.get("zero_hpz_partition_size", 1)
    if whole(group) is not None and (group < 1 or world_size % group):
        raise ConfigError(
            f"deepspeed.zero_optimization.zero_hpz_partition_size={group}: expected a number that divides the run's "
            f"ranks, {world_size:,}, as those of a node"
        )
    scattered = zero.get("reduce_scatter", True) is not False
    if stage >= 2 and scattered:  # DeepSpeed asserts it where its optimizer is made
        for key, usual in (("prescale_gradients", False), ("gradient_predivide_factor", 1.0)):
            if node.get(key, usual) != usual:
                raise ConfigError(
                    f"deepspeed.{key}={node[key]}: DeepSpeed has it not at zero={stage}, which scatters gradients: "
                    "type zero=1, or leave it out"
                )
    if stage == 3 and not scattered and zero.get("zero_quantized_gradients") is True:
        raise ConfigError(
            "deepspeed.zero_optimization.zero_quantized_gradients=True: DeepSpeed has it only where gradients are "
            "scattered: leave reduce_scatter=false out"
        )


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
