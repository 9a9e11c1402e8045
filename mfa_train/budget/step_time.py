"""How long a step takes: what the model multiplies, what is multiplied twice, and what ranks send each other.

    computing       FLOPs / (peak × the share that kernels are assumed to reach, `kernel`)
    recomputation   training.activation_checkpointing=full runs each layer forward once more, the head not; selective
                    no matrix product, but on a CPU the tiles' scores; with training.mlp_tile_tokens each feed-forward
                    runs once more, which full has counted
    communication   the bytes of `communication` over the slowest link: after the computing, at stage 3 beside it

    experts         what tokens send to experts of other ranks (`exchange`), after the computing
    context         what ranks that share sequences wait for each other (`context`); the keys and values that each makes
                    of all tokens are in the computing

A share that is typed or measured (plan.mfu) is of the whole step, with all of them in it. Not counted: offloading's
transfers, loading, evaluation, saves.
"""

from dataclasses import dataclass

import torch

from mfa_train.budget.communication import overlaps, ring_speed, traffic
from mfa_train.budget.context import ContextCost
from mfa_train.budget.devices import PRECISIONS, Device
from mfa_train.budget.exchange import seconds, sent_per_token
from mfa_train.budget.kernel import Kernel
from mfa_train.budget.mfu import typed_or_measured
from mfa_train.budget.shape import Shape
from mfa_train.budget.units import finite, over, times, together
from mfa_train.config import Config


@dataclass(frozen=True)
class Devices:
    """Those of a run, all of one kind."""

    count: int
    nodes: int
    device: Device
    dtype: torch.dtype
    peak: float | None
    """FLOP/s of one; None: unknown."""
    kernel: Kernel


def time_of(config: Config, shape: Shape, devices: Devices, context: ContextCost | None = None) -> dict:
    """`time` of a plan; seconds are None where the device's peak is unknown, or no float holds them. `context`: what
    sharing sequences costs."""
    training, steps = config.training, config.training.total_steps
    tokens = training.batch_size * training.sequence_length
    parts, typed = _parts(config, shape, devices, context), typed_or_measured(config.plan.mfu, devices.device)
    all_at_peak = over(
        tokens * shape.train_flops_per_token(training.sequence_length), times(devices.peak, devices.count)
    )
    if typed:
        mfu, source = typed
        parts |= dict.fromkeys(("computing_seconds", "recomputation_seconds", "waiting_seconds", "expert_seconds"))
        step = over(all_at_peak, mfu)
    else:
        source = "assumed"
        step = together(parts["computing_seconds"], parts["recomputation_seconds"], parts["waiting_seconds"] or 0.0)
        mfu = over(all_at_peak, step) or devices.kernel.products
    run = times(step, steps)
    hours = times(run, devices.count / 3600)
    return {
        "mfu": mfu,
        "mfu_source": source,
        "precision": PRECISIONS[devices.dtype],
        "peak_flops": devices.peak,
        "kernel": devices.kernel.name,
        "kernel_share": None if typed else devices.kernel.scores,
        "products_share": None if typed else devices.kernel.products,
        **parts,
        "step_seconds": step,
        "run_seconds": run,
        "tokens_per_second": over(tokens, step),
        "device_hours": hours,
        "cost": times(hours, config.cluster.price_per_device_hour),
    }


def _parts(config: Config, shape: Shape, devices: Devices, context: ContextCost | None) -> dict:
    """Seconds of one step by what they go into, and what of the communication the step waits for."""
    training = config.training
    tokens = training.batch_size * training.sequence_length / devices.count
    scores = shape.scores_and_values_flops(training.sequence_length)

    def forward(products: int, scores: int) -> float | None:
        at_peak = products / devices.kernel.products + scores / devices.kernel.scores
        return over(finite(lambda: tokens * at_peak), devices.peak)

    linear = shape.attention_linear_flops + shape.ffn_flops + (context.expansion_flops if context else 0)
    layers = forward(linear, scores)
    computing = times(3, together(layers, forward(shape.head_flops, 0)))
    nothing = times(0.0, layers)
    tiles = forward(0, scores) if devices.kernel.name == "tiled" else nothing  # which no policy sees into
    again = {"none": nothing, "selective": tiles, "full": layers}[training.activation_checkpointing]
    groups = devices.count // config.parallel.context
    passes = training.batch_size // (training.micro_batch(groups) * groups)
    among, per_node = config.parallel.experts, devices.count // devices.nodes
    sent = traffic(shape.parameter_sizes, devices.dtype, config.zero, devices.count, passes, shape.expert_sizes, among)
    if training.activation_checkpointing != "full" and tokens / passes > (training.mlp_tile_tokens or tokens):
        again = together(again, forward(shape.ffn_flops, 0))
    network = config.cluster.network_gbits and config.cluster.network_gbits * 1e9 / 8
    speed = ring_speed(devices.device, devices.nodes, per_node, network)
    moving = 0.0 if devices.count == 1 else over(sent, speed)
    beside = together(computing, again) if overlaps(config.zero) else 0.0
    of_token = sent_per_token(
        shape.values_to_experts, devices.dtype.itemsize, among, training.activation_checkpointing == "full"
    )
    exchange = seconds(of_token * tokens, among, devices.device, per_node, network)
    waiting = max(0.0, moving - beside) if moving is not None and beside is not None else None
    return {
        "computing_seconds": computing,
        "recomputation_seconds": again,
        "communication_bytes": sent,
        "ring_bytes_per_second": None if devices.count == 1 else speed,
        "communication_seconds": moving,
        "waiting_seconds": together(waiting, exchange, context.waiting_seconds if context else 0.0),
        "expert_ranks": among,
        "expert_bytes_per_token": of_token,
        "expert_seconds": exchange,
    }
