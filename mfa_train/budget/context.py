"""What ranks that share a sequence receive of each other, which way is the smaller, and how long it takes.

C ranks (`parallel.context`) hold T/C tokens each of a sequence of T. Received by a rank in a layer, of one sequence:

    way        forward pass                                               backward pass
    entries    entry × T × (C - 1)/C: an all-gather of what the cache     the same in float32, 4 bytes a value: a
               would hold                                                 reduce-scatter
    heads      (h·d_qk + n·(d_qk + d_v) + h·d_v) × T × (C - 1)/C²:        the same
               Ulysses (arXiv 2309.14509), h query heads and n
               key-value heads change for tokens, and back

in bytes of the model's type; where a layer runs again in the backward pass (training.activation_checkpointing), its
forward pass's once more. Entries travel while the query is computed, forward and backward, and cost each rank the keys
and values of all T tokens instead of its own; heads wait for all of it, and need C to divide h and n.

An all-gather goes round a ring of the C ranks, which all cards of their nodes carry (`communication.ring_speed`); of
heads each of the C - 1 others gets as much (`exchange.seconds`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mfa_train.budget.communication import ring_speed
from mfa_train.budget.exchange import seconds
from mfa_train.budget.shape import Shape
from mfa_train.budget.units import duration, over, size_of, times, together
from mfa_train.config import Config
from mfa_train.config.parallel_schema import ParallelConfig
from mfa_train.errors import ConfigError

if TYPE_CHECKING:
    from mfa_train.budget.step_time import Devices

WAYS = ("entries", "heads")
LESS = 2.0
"""How many times as long heads are waited for where entries are proposed."""
GRADIENT_BYTES = 4
"""Of a value of an entry's gradient."""


@dataclass(frozen=True)
class Received:
    """Bytes that one rank receives of one sequence in one layer."""

    forward: int
    backward: int
    again: bool
    """Whether the forward pass runs twice."""

    @property
    def step(self) -> int:
        return self.forward * (2 if self.again else 1) + self.backward


@dataclass(frozen=True)
class Chosen:
    way: str
    """entries | heads."""
    why: str
    """In words, with what the other way would receive."""


def received(
    shape: Shape, way: str, tokens: int, among: int, dtype: torch.dtype, checkpointing: str = "none"
) -> Received:
    """Of a sequence of `tokens` that `among` ranks share; way: entries | heads; checkpointing: none | selective |
    full."""
    again = checkpointing != "none"
    if way == "entries":
        values = shape.cache_values_per_layer * tokens * (among - 1) // among
        return Received(dtype.itemsize * values, GRADIENT_BYTES * values, again)
    sent = dtype.itemsize * shape.widths.values_by_heads * tokens * (among - 1) // among**2
    return Received(sent, sent, again)


def chosen_way(
    config: Config,
    shape: Shape,
    dtype: torch.dtype,
    parallel: ParallelConfig | None = None,
    checkpointing: str | None = None,
) -> Chosen:
    """What parallel.context_by means for this attention: of auto the way that receives less in a step, entries where
    both are alike; with another `parallel` or another checkpointing where they are given. Raises ConfigError where
    heads are asked for and don't divide."""
    parallel = parallel or config.parallel
    among, asked = parallel.context, parallel.context_by
    if (obstacle := _undivided(shape, among)) and asked == "heads":
        raise ConfigError(
            f"parallel.context_by=heads with parallel.context={among}, which does not divide the {obstacle} of "
            f"attention={config.attention['name']}: type parallel.context_by=entries"
        )
    tokens = config.training.sequence_length
    checkpointing = checkpointing or config.training.activation_checkpointing
    if obstacle:
        amount = size_of(received(shape, "entries", tokens, among, dtype, checkpointing).step)
        why = f"{amount} received of a sequence in a layer and step; {among} ranks have no equal share of {obstacle}"
        return Chosen("entries", why)
    told = {way: received(shape, way, tokens, among, dtype, checkpointing).step for way in WAYS}
    way = asked if asked != "auto" else "heads" if told["heads"] < told["entries"] else "entries"
    (other,) = (one for one in WAYS if one != way)
    amount, otherwise = size_of(told[way]), size_of(told[other])
    return Chosen(way, f"{amount} received of a sequence in a layer and step, by {other} {otherwise}")


def _undivided(shape: Shape, among: int) -> str | None:
    """The heads that `among` ranks don't divide, in words; None where they divide all."""
    for name, count in (("query", shape.widths.heads), ("key-value", shape.widths.kv_heads)):
        if count % among:
            return f"{count} {name} head{'s' if count > 1 else ''}"
    return None


@dataclass(frozen=True)
class Way:
    """What one rank receives in a step by one way; seconds are None where a link's or a device's speed is unknown."""

    one: Received
    bytes: int
    seconds: float | None
    hidden_seconds: float | None
    """Of it beside the query's projection."""

    @property
    def waiting_seconds(self) -> float | None:
        return together(self.seconds, times(-1.0, self.hidden_seconds))


@dataclass(frozen=True)
class ContextCost:
    chosen: Chosen
    ways: dict[str, Way]
    """Those that are possible."""
    nodes: int
    """Over how many the ranks of a sequence stand."""
    expansion_flops: int
    """Per token of a rank's own, forward, all layers: of keys and values that other ranks expand too."""

    @property
    def way(self) -> Way:
        return self.ways[self.chosen.way]

    @property
    def seconds(self) -> float | None:
        return self.way.seconds

    @property
    def waiting_seconds(self) -> float | None:
        return self.way.waiting_seconds


def context_cost(config: Config, shape: Shape, devices: "Devices") -> ContextCost | None:
    """None where no sequence is shared. Raises ConfigError where parallel.context_by can't be."""
    among = config.parallel.context
    if among == 1:
        return None
    chosen = chosen_way(config, shape, devices.dtype)
    ways = {"entries": _by_entries(config, shape, devices)}
    if _undivided(shape, among) is None:
        ways["heads"] = _by_heads(config, shape, devices)
    expanded = (among - 1) * shape.expansion_flops if chosen.way == "entries" else 0
    return ContextCost(chosen, ways, nodes_of(among, devices.count // devices.nodes), expanded)


def _in_step(config: Config, shape: Shape, devices: "Devices", way: str) -> tuple[Received, int]:
    """Of one sequence in one layer, and how many times that is received in a step."""
    training, among = config.training, config.parallel.context
    checkpointing = training.activation_checkpointing
    one = received(shape, way, training.sequence_length, among, devices.dtype, checkpointing)
    return one, shape.layers * (training.batch_size // (devices.count // among))


def _by_heads(config: Config, shape: Shape, devices: "Devices") -> Way:
    one, layers = _in_step(config, shape, devices, "heads")
    per_node, network = devices.count // devices.nodes, _network(config)
    taken = seconds(layers * one.step, config.parallel.context, devices.device, per_node, network)
    return Way(one, layers * one.step, taken, times(0.0, taken))


def _by_entries(config: Config, shape: Shape, devices: "Devices") -> Way:
    one, layers = _in_step(config, shape, devices, "entries")
    per_node, among, network = devices.count // devices.nodes, config.parallel.context, _network(config)
    nodes = nodes_of(among, per_node)
    of_node = among // nodes
    speed = ring_speed(devices.device, nodes, of_node, network and network * of_node / per_node)
    tokens = layers // shape.layers * config.training.sequence_length / among
    query = over(times(tokens, shape.query_flops), times(devices.peak, devices.kernel.products))
    gathering, scattering = (over(layers * sent, speed) for sent in (one.forward, one.backward))
    passes = 2.0 if one.again else 1.0
    return Way(
        one,
        layers * one.step,
        together(times(passes, gathering), scattering),
        together(times(passes, _least(gathering, query)), _least(scattering, times(2.0, query))),
    )


def _network(config: Config) -> float | None:
    """Of a node, bytes a second one way, where it is not the one its vendor builds."""
    return config.cluster.network_gbits and config.cluster.network_gbits * 1e9 / 8


def nodes_of(among: int, per_node: int) -> int:
    """Over how many nodes `among` consecutive ranks stand, at most."""
    if per_node % among == 0:
        return 1
    return max(2, -(-among // per_node))


def _least(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else min(one, other)


def context_of(config: Config, shape: Shape, cost: ContextCost, step_seconds: float | None) -> dict:
    """`context` of a plan."""
    training, among, way = config.training, config.parallel.context, cost.way
    forward = shape.train_flops_per_token(training.sequence_length) // 3
    by = {name: cost.ways[name].bytes if name in cost.ways else None for name in WAYS}
    return {
        "ranks": among,
        "nodes": cost.nodes,
        "local_tokens": training.sequence_length // among,
        "by": cost.chosen.way,
        "why": cost.chosen.why,
        "received_bytes_per_layer": way.one.forward,
        "received_bytes_per_layer_backward": way.one.backward,
        "forward_passes": 2 if way.one.again else 1,
        "received_bytes": way.bytes,
        "received_bytes_by": by,
        "seconds": way.seconds,
        "hidden_seconds": way.hidden_seconds,
        "waiting_seconds": way.waiting_seconds,
        "share_of_step": over(way.waiting_seconds, step_seconds) if way.waiting_seconds else way.waiting_seconds,
        "expansion_flops_per_token": 3 * cost.expansion_flops,
        "expansion_share": cost.expansion_flops / (forward + cost.expansion_flops),
    }


def notes_of_context(config: Config, cost: ContextCost | None) -> list[str]:
    """One line where auto took heads for their fewer bytes, and entries would be waited for less: between nodes an
    all-gather has all cards of a node, and what one rank sends another its own alone."""
    if cost is None or config.parallel.context_by != "auto" or cost.chosen.way != "heads":
        return []
    entries, heads = (cost.ways[way].waiting_seconds for way in WAYS)
    if entries is None or heads is None or heads < LESS * entries:
        return []
    return [
        f"{config.attention['name']}: heads are waited for {duration(heads)} of a step, and entries would be "
        f"{duration(entries)}, with keys and values of all entries made on every rank: type "
        "parallel.context_by=entries to have that"
    ]
