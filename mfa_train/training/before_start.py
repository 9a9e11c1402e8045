"""What can be known to fail before the first step. A run asks this as it starts, a launch before it hands a job over,
so that no queue is waited in vain.
"""

from collections.abc import Callable
from typing import Any

import torch

from mfa_train.attention.cache_types import held_in
from mfa_train.attention.stages import require_stages
from mfa_train.budget.devices import Device, planned_device, resolve_precision
from mfa_train.budget.plan import ACTIVATIONS, make_plan, require_fit
from mfa_train.config import Config
from mfa_train.config.budget_schema import entry_bytes
from mfa_train.config.profile_schema import FIRST, require_ranks
from mfa_train.data.corpora import require_readable
from mfa_train.data.corpus import Corpus
from mfa_train.data.reading.batches import Batches, Share
from mfa_train.data.reading.held_out import HeldOut
from mfa_train.errors import ConfigError
from mfa_train.evaluation.installed import require_lm_eval
from mfa_train.parallel.requirements import require_parallel
from mfa_train.training.steps.deepspeed_node import require_known
from mfa_train.training.steps.schedule import check_schedule

CLOSING_TOKENS = 8192
Check = Callable[[], None]


def checked_plan(
    config: Config,
    match: dict | None,
    device: Device | None = None,
    world_size: int | None = None,
    local_world_size: int | None = None,
) -> dict:
    """The plan of a config that is matched already, on `world_size` of `device`, `local_world_size` on each node; by
    default on the cluster's.

    Raises ConfigError where the batch doesn't divide over them, the schedule doesn't fit into the steps, or the run
    can't on that device.
    """
    for check in checks_before_plan(config, device, world_size):
        check()
    plan = make_plan(config, device, world_size, match, local_world_size)
    for check in checks_of_plan(config, plan, device):
        check()
    return plan


def of_another_kind(config: Config, device: Device) -> str | None:
    """What to say of a cluster.device that is not what the run, started without a launcher, found here."""
    if planned_device(config.cluster.device, 1).type == device.type:
        return None
    here = "the CPU" if device.type == "cpu" else "a GPU"
    return (
        f"cluster.device={config.cluster.device} names what a launch trains on; without one this run trains on {here}"
    )


def checks_before_plan(config: Config, device: Device | None = None, world_size: int | None = None) -> list[Check]:
    """Of `checked_plan`, those that need no plan. Each raises ConfigError."""
    return [
        lambda: require_parallel(config, world_size or config.cluster.world_size),
        lambda: _require_batch(config, world_size or config.cluster.world_size),
        lambda: require_stages(config),
        lambda: require_known(config, world_size or config.cluster.world_size),
        lambda: check_schedule(config.schedule, config.training.total_steps),
        lambda: _require_upload(config),
        lambda: _require_kernel(config, _dtype(config, device)),
        lambda: _require_profile(config, world_size or config.cluster.world_size),
    ]


def checks_of_plan(config: Config, plan: dict, device: Device | None = None) -> list[Check]:
    """Of `checked_plan`, the others. Each raises ConfigError."""
    if config.plan.check and not plan["memory"]["fits"]:
        return [lambda: require_fit(config, plan["memory"])]  # then a sample has no room either
    return [lambda: _require_sample(config, plan, _dtype(config, device))]


def checked_tasks(config: Config) -> dict[str, Any]:
    """The tasks that a run is scored on as it goes, none without evaluation.every_steps. Raises ConfigError where one
    can't be."""
    if config.evaluation.every_steps is None:
        return {}
    require_lm_eval("evaluation.every_steps")
    from mfa_train.evaluation.evaluate import require_room
    from mfa_train.evaluation.tasks import load_tasks

    tasks = load_tasks(config.evaluation)
    first = min(config.evaluation.every_steps, config.training.total_steps)
    require_room(tasks, config.training.stage_of(first - 1).sequence_length)
    return tasks


def read_order(config: Config, corpora: dict[str, Corpus], mine: Share) -> tuple[Batches, HeldOut]:
    """What is trained on, of which a rank reads its share `mine`, and what all are evaluated on.

    Raises ConfigError where the model can't read the corpora, they don't go together, are shorter than a sequence, or a
    node's cache has no room for them.
    """
    require_readable(config, corpora)
    training = config.training
    batches = Batches(corpora, config.data, training.sequence_length, config.seed, training.batch_size, mine)
    return batches, HeldOut(corpora, batches.phases[-1], training.sequence_length, training.eval_sequences)


def _dtype(config: Config, device: Device | None) -> torch.dtype:
    here = device or planned_device(config.cluster.device, config.cluster.devices_per_node)
    return resolve_precision(config.precision, here)


def _require_batch(config: Config, world_size: int) -> None:
    context = config.parallel.context
    config.training.micro_batch(max(1, world_size // context), context)  # which raises


def _require_upload(config: Config) -> None:
    if config.checkpoint.upload is not None:
        from mfa_train.checkpoints.object_storage import require_known

        require_known(config.checkpoint.upload)


def _require_kernel(config: Config, dtype: torch.dtype) -> None:
    if dtype == torch.float32 and config.attention["kernel"] in ("flash", "tiled"):
        raise ConfigError(
            f"attention.kernel={config.attention['kernel']} works in 16 bit alone, and precision="
            f"{config.precision} is fp32 here: type precision=bf16, or attention.kernel=auto"
        )


def _require_profile(config: Config, world_size: int) -> None:
    step, steps = config.profile.step, config.training.total_steps
    require_ranks("profile.ranks", config.profile.ranks, world_size)
    if step is None:
        return
    if step > steps:
        raise ConfigError(f"profile.step={step}: the run ends after step {steps}: type one from {FIRST} to it, or null")
    if (left := steps - step + 1) < config.profile.steps:
        raise ConfigError(
            f"profile.steps={config.profile.steps}: from profile.step={step} on the run, which ends at step {steps}, "
            f"has {left}: type profile.steps={left}, or an earlier profile.step"
        )


def _require_sample(config: Config, plan: dict, dtype: torch.dtype) -> None:
    """Raises ConfigError for a closing sample that takes long, or whose cache would not fit beside what the run has on
    the device by then: after the whole training."""
    memory, sample = plan["memory"], config.sample
    if sample.max_new_tokens > CLOSING_TOKENS:
        raise ConfigError(
            f"sample.max_new_tokens={sample.max_new_tokens}: a run's closing sample has at most {CLOSING_TOKENS:,} "
            "tokens: type fewer; mfa-train generate RUN sample.max_new_tokens=… makes longer ones of the finished run"
        )
    values, tensors = (plan["kv_cache"][f"{what}_per_token_per_layer"] for what in ("values", "tensors"))
    of_token = entry_bytes(values, tensors, held_in(config.cache.dtype, dtype)) * config.model.num_hidden_layers
    passing = memory[ACTIVATIONS[memory["activation_checkpointing"]]]
    prompt = len(sample.prompt.encode()) + 1
    room = (memory["usable"] - memory["total"] + passing) // of_token - prompt
    if config.plan.check and sample.max_new_tokens > room:
        raise ConfigError(
            f"sample.max_new_tokens={sample.max_new_tokens}: the closing sample's cache would not fit into "
            f"{memory['device']}: type sample.max_new_tokens={max(0, room)} (plan.check=false starts it all the same)"
        )
