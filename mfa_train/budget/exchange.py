"""What tokens send to experts of other ranks, and how long that takes.

Of E ranks that share out each layer's experts (`parallel.experts`) a rank has 1/E. A token goes to its experts and its
results come back, forward, and their gradients the other way, backward: four times `Shape.values_to_experts` in the
model's type, of which (E - 1)/E leave the rank where all experts are equally busy. Where a layer's forward pass runs
again (training.activation_checkpointing=full) its two run again.

Each of the E - 1 others gets as much. E ranks one after another are a group: those of a node meet over the node's link,
the others over each device's share of the node's network, and the slower of both sets the pace. That the shared experts
may be multiplied meanwhile is not counted.
"""

from mfa_train.budget.communication import REACHED
from mfa_train.budget.devices import Device
from mfa_train.budget.units import over, times, together

THERE_AND_BACK = 2


def sent_per_token(values_to_experts: int, itemsize: int, among: int, again: bool) -> int:
    """Bytes of one token that leave its rank in a step, both passes. `again`: whether the forward pass runs twice."""
    ways = THERE_AND_BACK * (3 if again else 2)
    return ways * values_to_experts * itemsize * (among - 1) // among


def seconds(sent: float, among: int, device: Device, devices_per_node: int, network: float | None) -> float | None:
    """Of `sent` bytes from each of `among` ranks; `network` is that of a node, bytes a second one way, where it is not
    the one its vendor builds. None where a link's speed is unknown."""
    if among == 1 or not sent:
        return 0.0
    near = min(among, devices_per_node)
    share = network / devices_per_node if network else device.network
    within = over(sent * (near - 1) / (among - 1), times(REACHED, device.node_link)) if near > 1 else 0.0
    beyond = over(sent * (among - near) / (among - 1), times(REACHED, share)) if among > near else 0.0
    return None if together(within, beyond) is None else max(within or 0.0, beyond or 0.0)
