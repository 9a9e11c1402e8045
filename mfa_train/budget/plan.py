"""What a run is and what it will cost: one JSON object, known before anything is allocated.

1. `match` shapes the variant, where the config asks for it.
2. One layer on the meta device tells parameters, cache and FLOPs (`shape`).
3. A step on the meta device tells the activations, DeepSpeed's bookkeeping the rest of the memory (`fit`).
4. What is multiplied, multiplied again and sent tells the time of a step (`step_time`), and a price the cost; where
   ranks share sequences, what they send each other (`context`).
5. Steps, tokens and rates (`length`), epochs of each corpus (`epochs`), checkpoints (`disk`), and what is to be said of
   all that (`notes`).
"""

from dataclasses import replace

import torch

from mfa_train.attention import attention_config
from mfa_train.attention.stages import require_stages
from mfa_train.budget.context import ContextCost, context_cost, context_of, notes_of_context
from mfa_train.budget.devices import Device, planned_device, resolve_precision
from mfa_train.budget.disk import disk_of
from mfa_train.budget.epochs import data_of, notes_of
from mfa_train.budget.fit import Fit
from mfa_train.budget.length import flops_between, length_of, notes_of_stages, stages_of
from mfa_train.budget.peak import peak_flops
from mfa_train.budget.shape import measure
from mfa_train.budget.step_time import Devices, time_of
from mfa_train.budget.units import together
from mfa_train.config import Config
from mfa_train.errors import ConfigError
from mfa_train.feed_forward import feed_forward_config
from mfa_train.parallel.requirements import require_parallel

MODEL_KEYS = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")
ACTIVATIONS = {"none": "activations", "selective": "activations_selective", "full": "activations_checkpointed"}
"""Where a plan's memory has them, by training.activation_checkpointing."""
MUCH_WAITING = 0.2
"""Share of a step."""
CONTINUED = 0.1
"""Of model.learning_rate, what experiment=long_context_* goes on with."""
NO_SETTING = (
    "no setting makes it fit: take a smaller model or training.sequence_length, or more devices with a larger "
    "training.batch_size"
)


def make_plan(
    config: Config,
    device: Device | None = None,
    ranks: int | None = None,
    match: dict | None = None,
    ranks_per_node: int | None = None,
) -> dict:
    """The plan of a config that is matched already (`budget.match.matched`, whose report is `match`).

    By default for cluster.device and the cluster's devices; with `ranks` for so many, no longer to be chosen, of which
    `ranks_per_node` share a node (by default cluster.devices_per_node). Raises ConfigError where the model can't be
    built, the device is unknown, or the batch or the experts do not divide.
    """
    try:
        return _made(config, device, ranks, match, ranks_per_node or config.cluster.devices_per_node)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise ConfigError(
            f"model={config.model.name} training.sequence_length={config.training.sequence_length} training.batch_size="
            f"{config.training.batch_size}: a tensor of this model and batch would have more bytes than 64 bits count: "
            "type smaller ones"
        ) from error


def _made(config: Config, device: Device | None, ranks: int | None, match: dict | None, ranks_per_node: int) -> dict:
    attention_config(config.attention)
    require_stages(config)
    feed_forward_config(config.model.feed_forward)
    require_parallel(config, ranks or config.cluster.world_size)
    per_node = config.cluster.devices_per_node if device is None else 1  # a rank at hand measures its own threads
    device = device or planned_device(config.cluster.device, per_node)
    dtype = resolve_precision(config.precision, device)
    _peak(device, dtype, per_node)  # and again below: a CPU's is measured at different moments
    shape = measure(config.model, config.attention)
    fit = Fit(config, shape, device, dtype, ranks or config.cluster.world_size, more_ranks=ranks is None)
    context = config.plan.context
    train_per_token = shape.train_flops_per_token(config.training.sequence_length)
    length, data = length_of(config, shape.params), data_of(config)
    length |= stages_of(config, shape.train_flops_per_token)
    of_run = {"length": length, "flops": {"train_per_token": train_per_token}}
    count = fit.setting.ranks
    nodes = -(-count // ranks_per_node)
    devices = Devices(count, nodes, device, dtype, _peak(device, dtype, per_node), fit.kernel)
    shared = context_cost(config, shape, devices)
    time = time_of(config, shape, devices, shared)
    bytes_per_token = shape.cache_bytes(config.plan.cache_dtype)
    return {
        "attention": config.attention["name"],
        "params": {
            "total": shape.params,
            "active": shape.active_params,
            "active_without_input_embedding": shape.multiplied_params,
            "experts": sum(size * number for size, number in shape.expert_sizes),
            "non_embedding": shape.params - shape.embedding_params,
            "attention_per_layer": shape.attention_params_per_layer,
            "ffn_per_layer": shape.ffn_params_per_layer,
        },
        "kv_cache": {
            "values_per_token_per_layer": shape.cache_values_per_layer,
            "tensors_per_token_per_layer": shape.cache_tensors_per_layer,
            "bytes_per_token": bytes_per_token,
            "dtype": config.plan.cache_dtype,
            "context": context,
            "bytes_at_context": bytes_per_token * context,
        },
        "capacity": shape.capacity and shape.capacity._asdict(),
        "flops": {
            "train_per_token": train_per_token,
            "train_total": flops_between(of_run, 0, length["steps"]),
            "decode_attention_per_token": shape.decode_attention_flops(context, config.plan.decode_counting),
            "feed_forward_per_token": shape.ffn_flops,
            "decode_linear_per_token": shape.decode_linear_flops(),
            "decode_rest_per_token": shape.ffn_flops + shape.head_flops,
        },
        "memory": _memory(fit, config.cluster.devices_per_node),
        "time": time,
        **({"context": context_of(config, shape, shared, time["step_seconds"])} if shared else {}),
        "length": length,
        "data": data,
        "disk": disk_of(config, shape.params, dtype, time["step_seconds"]),
        "model": {key: getattr(config.model, key) for key in MODEL_KEYS}
        | {
            key: value
            for keys in (config.attention, config.model.feed_forward)
            for key, value in keys.items()
            if type(value) is int
        },
        "match": match,
        "notes": [
            *shape.attention.notes(),
            *notes_of_config(config),
            *notes_of_stages(length, config.training.sequence_schedule),
            *notes_of(data),
            *_notes_of_time(time, config, count, shared),
            *notes_of_context(config, shared),
        ],
    }


def notes_of_config(config: Config) -> list[str]:
    """Of what was asked for and has no effect, or one that is hardly meant; a run tells it as it starts."""
    notes = []
    if config.parallel.context == 1 and config.parallel.context_by == "heads":
        notes.append("parallel.context_by=heads does nothing with parallel.context=1, where no sequence is shared")
    usual, lr = config.model.learning_rate, config.optimizer.lr
    if config.init_from is None and config.schedule.min_lr_ratio == 1 and lr <= CONTINUED * usual:
        notes.append(
            f"init_from=null: this trains from scratch, at a small constant rate as for weights that are there "
            f"(optimizer.lr={lr:.3g}, model.learning_rate={usual:.3g}): type init_from=RUN to go on from those of a run"
        )
    return notes


def _notes_of_time(time: dict, config: Config, ranks: int, shared: ContextCost | None) -> list[str]:
    """Of what is not in the step's time, and of what is most of it."""
    sending = together(time["communication_seconds"], time["expert_seconds"], shared.seconds if shared else 0.0)
    if sending is None and time["computing_seconds"] is not None:
        return ["what the ranks send each other is not in the step's time: the speed of their links is not known"]
    waiting, step = time["waiting_seconds"], time["step_seconds"]
    if waiting and step and waiting > MUCH_WAITING * step:
        groups = ranks // config.parallel.context
        several_passes = config.training.micro_batch(groups) * groups < config.training.batch_size
        fewer = "a larger training.batch_size, or fewer devices"
        if config.zero == 2 and several_passes:
            fewer = "zero=1, which sums gradients once a step, or a larger training.micro_batch_size"
        if (time["expert_seconds"] or 0.0) > waiting / 2:
            fewer = "fewer parallel.experts, or those of one node"
        if shared and (shared.waiting_seconds or 0.0) > waiting / 2:
            fewer = "a smaller parallel.context, of one node where it fits,"
        return [f"{waiting / step:.0%} of a step goes into what ranks send each other: {fewer} would leave less"]
    return []


def require_fit(config: Config, memory: dict) -> None:
    """Raises ConfigError, with the smallest change that helps, where `memory` (of its plan) says that the run cannot
    fit."""
    if memory["fits"]:
        return
    needed, usable = (f"{memory[key] / 2**30:,.1f} GiB" for key in ("total", "usable"))
    change = f"type {' '.join(memory['change'])}" if memory["change"] else NO_SETTING
    raise ConfigError(
        f"model={config.model.name}: the run needs about {needed} on each {memory['device']}, where {usable} "
        f"are usable: {change} (plan.check=false starts it all the same)"
    )


def _memory(fit: Fit, devices_per_node: int) -> dict:
    """Bytes on one device."""
    setting, states = fit.setting, fit.states(fit.setting)
    activations = {key: fit.activations(replace(setting, checkpointing=which)) for which, key in ACTIVATIONS.items()}
    fits = fit.fits(setting)
    change = None if fits else fit.smallest_change()
    offloads = {0: "none", 3: setting.offload}  # stages 1 and 2 can offload the optimizer alone
    between = setting.offload.replace("parameters", "optimizer")
    stages = {stage: replace(setting, zero=stage, offload=offloads.get(stage, between)) for stage in range(4)}
    return {
        "device": fit.device.name,
        "device_bytes": fit.device.memory_bytes,
        "usable": fit.usable_bytes,
        "world_size": setting.ranks,
        "zero": setting.zero,
        "micro_batch_size": setting.micro_batch,
        "weights": states.weights,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
        "transient": states.transient,
        "offloaded": states.offloaded,
        "checkpoint_copy": fit.checkpoint_copy(setting),
        **activations,
        "activation_checkpointing": setting.checkpointing,
        "total": fit.total(setting),
        "total_by_stage": {str(stage): fit.total(other) for stage, other in stages.items()},
        "fits": fits,
        "change": change and change.changes_from(setting, devices_per_node),
    }


def _peak(device: Device, dtype: torch.dtype, ranks_per_node: int) -> float | None:
    """FLOP/s of one rank: those of one CPU share its cores."""
    peak = peak_flops(device, dtype)
    return peak / ranks_per_node if peak and device.type == "cpu" else peak
