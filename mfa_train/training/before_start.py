"""What can be known to fail before the first step. A run asks this as it starts, a launch before it hands a job over,
so that no queue is waited in vain.
"""

import torch

from mfa_train.budget.devices import Device, planned_device, resolve_precision
from mfa_train.budget.plan import make_plan, require_fit
from mfa_train.config import Config
from mfa_train.data.corpora import require_readable
from mfa_train.data.corpus import Corpus
from mfa_train.data.reading.batches import Batches
from mfa_train.data.reading.held_out import HeldOut
from mfa_train.errors import ConfigError
from mfa_train.training.steps.schedule import check_schedule

CLOSING_TOKENS = 8192


def checked_plan(
    config: Config, match: dict | None, device: Device | None = None, world_size: int | None = None
) -> dict:
    """The plan of a config that is matched already, on `world_size` of `device`; by default on the cluster's.

    Raises ConfigError where the batch doesn't divide over them, the schedule doesn't fit into the steps, or the run
    can't on that device.
    """
    config.training.micro_batch(world_size or config.cluster.world_size)
    check_schedule(config.schedule, config.training.total_steps)
    here = device or planned_device(config.cluster.device, config.cluster.devices_per_node)
    dtype = resolve_precision(config.precision, here)
    if dtype == torch.float32 and config.attention["kernel"] in ("flash", "tiled"):
        raise ConfigError(
            f"attention.kernel={config.attention['kernel']} works in 16 bit alone, and precision="
            f"{config.precision} is fp32 here: type precision=bf16, or attention.kernel=auto"
        )
    plan = make_plan(config, device, world_size, match)
    if config.plan.check:
        require_fit(config, plan["memory"])
    _require_sample(config, plan, dtype)
    return plan


def read_order(
    config: Config, corpora: dict[str, Corpus], rank: int, world_size: int, local_world_size: int
) -> tuple[Batches, HeldOut]:
    """What `rank` of `world_size` trains on, and what all are evaluated on; `local_world_size` of them share a node.

    Raises ConfigError where the model can't read the corpora, they don't go together, are shorter than a sequence, or a
    node's cache has no room for them.
    """
    require_readable(config, corpora)
    training = config.training
    batches = Batches(
        corpora,
        config.data,
        training.sequence_length,
        config.seed,
        training.batch_size,
        rank,
        world_size,
        local_world_size,
    )
    return batches, HeldOut(corpora, batches.phases[-1], training.sequence_length, training.eval_sequences)


def _require_sample(config: Config, plan: dict, dtype: torch.dtype) -> None:
    """Raises ConfigError for a closing sample that takes long, or whose cache would not fit beside what the run has on
    the device by then: after the whole training."""
    memory, sample = plan["memory"], config.sample
    if sample.max_new_tokens > CLOSING_TOKENS:
        raise ConfigError(
            f"sample.max_new_tokens={sample.max_new_tokens}: a run's closing sample has at most {CLOSING_TOKENS:,} "
            "tokens: type fewer; mfa-train generate RUN sample.max_new_tokens=… makes longer ones of the finished run"
        )
    of_token = plan["kv_cache"]["values_per_token_per_layer"] * config.model.num_hidden_layers * dtype.itemsize
    passing = memory["activations_checkpointed" if memory["activation_checkpointing"] else "activations"]
    prompt = len(sample.prompt.encode()) + 1
    room = (memory["usable"] - memory["total"] + passing) // of_token - prompt
    if config.plan.check and sample.max_new_tokens > room:
        raise ConfigError(
            f"sample.max_new_tokens={sample.max_new_tokens}: the closing sample's cache would not fit into "
            f"{memory['device']}: type sample.max_new_tokens={max(0, room)} (plan.check=false starts it all the same)"
        )
