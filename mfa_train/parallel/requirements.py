"""What `parallel.experts` and `parallel.context` are refused for, before anything starts."""

import math

from mfa_train.config import Config
from mfa_train.errors import ConfigError

YES, NO = ("true", "1", "1.0", "yes", "on", "y", "t"), ("false", "0", "0.0", "no", "off", "n", "f")
WHOLE: dict[str, tuple[str, ...]] = {"contiguous_gradients": YES, "reduce_scatter": YES}
"""DeepSpeed 0.19.8 sums experts over all ranks at stage 1 without contiguous gradients, without a word."""
HARMLESS: dict[int, dict[str, tuple[str, ...]]] = {
    0: {},
    1: WHOLE,
    2: WHOLE,
    3: {"zero_hpz_partition_size": ("1", "1.0"), "zero_quantized_gradients": NO, "zero_quantized_weights": NO},
}
"""By stage, keys of deepspeed.zero_optimization and the values that may stand beside experts that are shared out."""


def require_parallel(config: Config, world_size: int) -> None:
    """Raises ConfigError where ranks cannot share out what the node `parallel` says."""
    _require_experts(config, world_size)
    _require_context(config, world_size)


def _require_experts(config: Config, world_size: int) -> None:
    """Raises ConfigError where the model has no experts to share out, they don't divide, the ranks don't, or DeepSpeed
    would train something else with what the node `deepspeed` says."""
    experts = config.parallel.experts
    if experts == 1:
        return
    given = f"parallel.experts={experts}"
    count = config.model.feed_forward.get("n_routed_experts")
    if count is None or config.model.feed_forward["first_k_dense_replace"] >= config.model.num_hidden_layers:
        raise ConfigError(f"{given}: the model has no experts to share out: type parallel.experts=1")
    if experts > world_size:
        fewer = f"type parallel.experts={_most(world_size, count)}"
        raise ConfigError(f"{given}: there {_are(world_size)}: {fewer}, or {_more_ranks(config)}")
    instead = f"type parallel.experts={_most(world_size, count, experts)}"
    if world_size % experts:
        raise ConfigError(f"{given} does not divide the {world_size:,} ranks: {instead}")
    if count % experts:
        raise ConfigError(f"{given} does not divide model.feed_forward.n_routed_experts={count}: {instead}")
    _require_deepspeed(config, given)


def _require_context(config: Config, world_size: int) -> None:
    """Raises ConfigError where sequences cannot be shared: they don't divide, the ranks don't, or the experts' capacity
    is a share of a whole sequence."""
    context, tokens = config.parallel.context, config.training.sequence_length
    if context == 1:
        return
    given = f"parallel.context={context}"
    instead = f"type parallel.context={_most(world_size, 1 if tokens % 2 else tokens // 2, context)}"
    if context > world_size:
        raise ConfigError(f"{given}: there {_are(world_size)}: {instead}, or {_more_ranks(config)}")
    if world_size % context:
        raise ConfigError(f"{given} does not divide the {world_size:,} ranks: {instead}")
    if tokens % (2 * context):
        near = max(1, round(tokens / (2 * context))) * 2 * context
        raise ConfigError(
            f"training.sequence_length={tokens}: {given} cuts sequences into {2 * context} equal stretches: type "
            f"training.sequence_length={near}"
        )
    _require_stretches(config.training.stages[0].sequence_length, given, 2 * context)
    if (factor := config.model.feed_forward.get("capacity_factor")) is not None:
        raise ConfigError(
            f"model.feed_forward.capacity_factor={factor}: with {given} no rank sees a whole sequence, of which an "
            "expert takes its share: type model.feed_forward.capacity_factor=null, or parallel.context=1"
        )


def _require_stretches(shortest: int, given: str, stretches: int) -> None:
    """Raises ConfigError where the first stage of a training.sequence_schedule, whose multiples the others are, cannot
    be shared."""
    if shortest % stretches:
        near = max(1, round(shortest / stretches)) * stretches
        raise ConfigError(
            f"training.sequence_schedule[0].sequence_length={shortest}: {given} cuts sequences into {stretches} equal "
            f"stretches: type {near}"
        )


def _require_deepspeed(config: Config, given: str) -> None:
    """Of DeepSpeed's settings those that it refuses with experts, or with which it trains wrongly without a word."""
    node = config.deepspeed.get("zero_optimization", {})
    for key, harmless in HARMLESS[config.zero].items():
        if key in node and str(node[key]).lower() not in harmless:
            raise ConfigError(
                f"deepspeed.zero_optimization.{key}={str(node[key]).lower()}: DeepSpeed cannot do that with {given}: "
                "leave it out, or type parallel.experts=1"
            )


def _are(world_size: int) -> str:
    return "is 1 rank" if world_size == 1 else f"are {world_size:,} ranks"


def _more_ranks(config: Config) -> str:
    """How to have as many as both keys ask for: a plan's and a launch's are the cluster's."""
    ranks, per_node = math.lcm(config.parallel.experts, config.parallel.context), config.cluster.devices_per_node
    if per_node == 1 or ranks % per_node:
        per_node = max(count for count in range(1, 9) if ranks % count == 0)
    nodes = ranks // per_node
    start, typed = f"--nproc-per-node {per_node}", f"cluster.devices_per_node={per_node}"
    if nodes > 1:
        start = f"--nnodes {nodes} {start}"
    if nodes != config.cluster.nodes:
        typed = f"cluster.nodes={nodes} {typed}"
    return f"have {ranks:,}: start the run with torchrun {start}; for mfa-train plan and launch type {typed}"


def _most(world_size: int, count: int, below: int = 2**30) -> int:
    """The largest number up to `below` that divides both."""
    return max(one for one in range(1, min(world_size, count, below) + 1) if world_size % one == count % one == 0)
