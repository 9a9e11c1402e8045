"""What the ranks of a run send each other in a step, and how long that takes.

DeepSpeed (0.18-0.19, as `training.steps.engine` sets it up) moves for each parameter in a step of P passes, b = 2
in bf16 and 4 in fp32; gradients are summed in float32, 4 bytes, whatever the precision. Counted on real ranks:

    stage   gradients                   parameters
    0       an all-reduce a step        nothing
    1       an all-reduce a step        an all-gather a step, of b
    2       an all-reduce a pass        an all-gather a step, of b
    3       a reduce-scatter a pass     an all-gather a pass, of b; of more than LIVE_PARAMETERS two: they are let go
                                        between the forward pass and the backward one. Recomputation adds none. Small
                                        parameters stay: an all-gather a step

In the ZeRO paper (arXiv 1910.02054, section 7) stages 1 and 2 scatter what is all-reduced here, and send a third less.

A collective goes round a ring of W ranks: all-gather and reduce-scatter send (W - 1)/W of their bytes from each rank,
an all-reduce is both. Where the ring leaves a node, all of the node's cards carry it: the slower of a device's own link
and the node's network sets its pace.
"""

import torch

from mfa_train.budget.devices import Device
from mfa_train.budget.memory import LIVE_PARAMETERS, PERSISTENT_PARAMETER, held

REACHED = 0.8
"""Share of a link that large collectives reach; assumed."""


def traffic(
    parameter_sizes: tuple[tuple[int, int], ...],
    dtype: torch.dtype,
    stage: int,
    ranks: int,
    passes: int,
    expert_sizes: tuple[tuple[int, int], ...] = (),
    expert_ranks: int = 1,
) -> int:
    """Bytes that each rank sends in a step of so many `passes`. parameter_sizes: (elements, how many parameters of that
    size); `expert_sizes`, those of them that each `expert_ranks` ranks share out: the rest of the ranks have the same
    ones, and sum their gradients."""
    others, experts = held(parameter_sizes, expert_sizes, expert_ranks)
    params = sum(size * count for size, count in (*others, *experts))
    small = sum(size * count for size, count in (*others, *experts) if size <= PERSISTENT_PARAMETER)
    gathers = passes * (1 if params - small <= LIVE_PARAMETERS else 2)

    def sent(sizes: tuple[tuple[int, int], ...], among: int) -> int:
        all_of_them = sum(size * count for size, count in sizes)
        kept = sum(size * count for size, count in sizes if size <= PERSISTENT_PARAMETER)
        gradients = 4 * all_of_them * {0: 2, 1: 2, 2: passes * 2, 3: passes}[stage]
        gathered = {0: 0, 1: all_of_them, 2: all_of_them, 3: gathers * (all_of_them - kept) + kept}[stage]
        return (gradients + dtype.itemsize * gathered) * (among - 1) // among

    return sent(others, ranks) + sent(experts, ranks // expert_ranks)


def ring_speed(device: Device, nodes: int, devices_per_node: int, network: float | None = None) -> float | None:
    """Bytes a second that go round a ring over so many devices; None where a link's speed is unknown. `network` is that
    of a node, bytes a second one way, where it is not the one its vendor builds."""
    links = []
    if devices_per_node > 1 or nodes == 1:
        links.append(device.node_link)
    if nodes > 1:
        links.append(network or (device.network and device.network * devices_per_node))
    known = [link for link in links if link]
    return REACHED * min(known) if len(known) == len(links) else None


def overlaps(stage: int) -> bool:
    """Whether it goes on beside the computing: DeepSpeed's default, overlap_comm, at stage 3 alone."""
    return stage == 3
