"""How long a step takes: what the model multiplies, what is multiplied twice, and what ranks send each other.

    computing       FLOPs / (peak × the share that kernels are assumed to reach, `kernel`)
    recomputation   training.activation_checkpointing runs each layer forward once more, the head not
    communication   the bytes of `communication` over the slowest link: after the computing, at stage 3 beside it

A share that is typed or measured (plan.mfu) is of the whole step, with all three in it. Not counted: offloading's
transfers, loading, evaluation, saves.
"""

from dataclasses import dataclass

import torch

from mfa_train.budget.communication import overlaps, ring_speed, traffic
from mfa_train.budget.devices import PRECISIONS, Device
from mfa_train.budget.kernel import Kernel
from mfa_train.budget.mfu import typed_or_measured
from mfa_train.budget.shape import Shape
from mfa_train.budget.units import finite, over, times, together
from mfa_train.config import Config


@dataclass(frozen=True)
class Ranks:
    """The devices of a run, and how each reaches the others."""

    count: int
    nodes: int
    device: Device
    dtype: torch.dtype
    peak: float | None
    """FLOP/s of one; None: unknown."""
    kernel: Kernel


def time_of(config: Config, shape: Shape, ranks: Ranks) -> dict:
    """`time` of a plan; seconds are None where the device's peak is unknown, or no float holds them."""
    training, steps = config.training, config.training.total_steps
    tokens = training.batch_size * training.sequence_length
    parts, typed = _parts(config, shape, ranks), typed_or_measured(config.plan.mfu, ranks.device)
    all_at_peak = over(tokens * shape.train_flops_per_token(training.sequence_length), times(ranks.peak, ranks.count))
    if typed:
        mfu, source = typed
        parts |= dict.fromkeys(("computing_seconds", "recomputation_seconds", "waiting_seconds"))
        step = over(all_at_peak, mfu)
    else:
        source = "assumed"
        step = together(parts["computing_seconds"], parts["recomputation_seconds"], parts["waiting_seconds"] or 0.0)
        mfu = over(all_at_peak, step) or ranks.kernel.products
    run = times(step, steps)
    hours = times(run, ranks.count / 3600)
    return {
        "mfu": mfu,
        "mfu_source": source,
        "precision": PRECISIONS[ranks.dtype],
        "peak_flops": ranks.peak,
        "kernel": ranks.kernel.name,
        "kernel_share": None if typed else ranks.kernel.scores,
        "products_share": None if typed else ranks.kernel.products,
        **parts,
        "step_seconds": step,
        "run_seconds": run,
        "tokens_per_second": over(tokens, step),
        "device_hours": hours,
        "cost": times(hours, config.cluster.price_per_device_hour),
    }


def _parts(config: Config, shape: Shape, ranks: Ranks) -> dict:
    """Seconds of one step by what they go into, and what of the communication the step waits for."""
    training = config.training
    tokens = training.batch_size * training.sequence_length / ranks.count
    scores = shape.scores_and_values_flops(training.sequence_length)

    def forward(products: int, scores: int) -> float | None:
        at_peak = products / ranks.kernel.products + scores / ranks.kernel.scores
        return over(finite(lambda: tokens * at_peak), ranks.peak)

    layers = forward(shape.attention_linear_flops + shape.ffn_flops, scores)
    computing = times(3, together(layers, forward(shape.head_flops, 0)))
    again = layers if training.activation_checkpointing else times(0.0, layers)
    passes = training.batch_size // (training.micro_batch(ranks.count) * ranks.count)
    sent = traffic(shape.parameter_sizes, ranks.dtype, config.zero, ranks.count, passes)
    gbits = config.cluster.network_gbits
    speed = ring_speed(ranks.device, ranks.nodes, ranks.count // ranks.nodes, gbits and gbits * 1e9 / 8)
    moving = 0.0 if ranks.count == 1 else over(sent, speed)
    beside = together(computing, again) if overlaps(config.zero) else 0.0
    waiting = max(0.0, moving - beside) if moving is not None and beside is not None else None
    return {
        "computing_seconds": computing,
        "recomputation_seconds": again,
        "communication_bytes": sent,
        "ring_bytes_per_second": None if ranks.count == 1 else speed,
        "communication_seconds": moving,
        "waiting_seconds": waiting,
    }
