"""The node `deepspeed`: what goes into DeepSpeed's own JSON beside what this library puts there, merged last.

It stays a plain mapping, in DeepSpeed's words. Refused by name are the keys that this library's promises rest on: the
batch, the curve, where a checkpoint's pieces lie. Whether DeepSpeed knows the others is asked of DeepSpeed itself,
where importing it is near anyway (`mfa_train.training.steps.deepspeed_node`).
"""

from collections.abc import Mapping
from typing import Any

from mfa_train.config.quantities import whole
from mfa_train.config.typed import flat
from mfa_train.errors import ConfigError, did_you_mean

TYPED_INSTEAD = {
    "train_batch_size": "type training.batch_size=…",
    "train_micro_batch_size_per_gpu": "type training.micro_batch_size=…",
    "gradient_accumulation_steps": "type training.micro_batch_size=…, from which it follows",
    "managed_gradient_accumulation": "it is not this run's to choose: leave it out",
    "gradient_clipping": "type training.gradient_clipping=…",
    "bf16": "type precision=bf16",
    "fp16": "type precision=bf16 or precision=fp32",
    "fp8": "type precision=bf16 or precision=fp32",
    "amp": "type precision=bf16",
    "torch_autocast": "type precision=bf16",
    "data_types": "gradients are summed in float32 always: leave it out",
    "communication_data_type": "gradients are summed in float32 always: leave it out",
    "seq_parallel_communication_data_type": "gradients are summed in float32 always: leave it out",
    "optimizer": "type optimizer.lr=…, optimizer.betas=[…] and so on",
    "scheduler": "type schedule=… and its keys",
    "zero_allow_untested_optimizer": "the optimizer is AdamW always: leave it out",
    "zero_force_ds_cpu_optimizer": "the optimizer is AdamW always: leave it out",
    "checkpoint": "type checkpoint.every_steps=… and its other keys",
    "activation_checkpointing": "type training.activation_checkpointing=…",
    "compile": "type training.compile=true",
    "steps_per_print": "type training.log_every=…",
    "tensorboard": "type tracking.wandb=…",
    "wandb": "type tracking.wandb=…",
    "csv_monitor": "metrics.jsonl has every record: leave it out",
    "zero_optimization.stage": "type zero=…",
    "zero_optimization.offload_param": "type offload=parameters",
    "zero_optimization.cpu_offload_param": "type offload=parameters",
    "zero_optimization.offload_optimizer": "type offload=optimizer",
    "zero_optimization.cpu_offload": "type offload=optimizer",
    "zero_optimization.cpu_offload_use_pin_memory": "type offload=optimizer",
    "zero_optimization.compute_grad_norm": "the guard needs the norm: leave it out",
    "zero_optimization.load_from_fp32_weights": "checkpoints are this library's own: leave it out",
    "zero_optimization.elastic_checkpoint": "checkpoints are this library's own: leave it out",
    "zero_optimization.legacy_stage1": "it is no more: leave it out",
    "zero_optimization.round_robin_gradients": "checkpoints' pieces would lie elsewhere: leave it out",
    "zero_optimization.parameter_alignment": "checkpoints' pieces would lie elsewhere: leave it out",
    "zero_optimization.zenflow": "updates would come late: leave it out",
    "zero_optimization.zero_quantized_nontrainable_weights": "all weights are trained: leave it out",
}
"""Keys that are refused, and what to do instead."""
NODES = (
    "comms_logger",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "timers",
    "wall_clock_breakdown",
    "zero_optimization",
)
"""What may be given."""
MOST_ELEMENTS = 10**12
"""Of a bucket: more than any model has parameters on one device."""


def require_deepspeed(node: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key that isn't the config's to give here."""
    for key, value in flat(dict(node)).items():
        for owned, instead in TYPED_INSTEAD.items():
            if f"{key}.".startswith(f"{owned}."):
                raise ConfigError(f"deepspeed.{key}={value}: expected nothing here, as the run sets it: {instead}")
    for name in node:
        if name not in NODES:
            raise ConfigError(f"deepspeed.{name}: no such key.{did_you_mean(str(name), NODES)}")
    if not isinstance(node.get("zero_optimization", {}), Mapping):
        raise ConfigError(f"deepspeed.zero_optimization={node['zero_optimization']}: expected keys with values")
    for key, value in node.get("zero_optimization", {}).items():
        if str(key).endswith("bucket_size") and (whole(value) or 0) > MOST_ELEMENTS:
            raise ConfigError(
                f"deepspeed.zero_optimization.{key}={value}: expected a number of elements, {MOST_ELEMENTS:,} at most, "
                "as 200_000_000"
            )


def given_bucket(node: Mapping[str, Any]) -> int | None:
    """Elements of the buffer in which gradients are summed, where `node` says so."""
    given = node.get("zero_optimization", {}).get("reduce_bucket_size")
    return None if given is None else whole(given)


def merged(settings: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with what `node` gives, whose keys' own part of a mapping alone is replaced."""
    found = dict(settings)
    for key, value in node.items():
        mine = found.get(key)
        found[key] = merged(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return found
