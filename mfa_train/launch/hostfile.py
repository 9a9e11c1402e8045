"""A hostfile as DeepSpeed and MPI know it: `node-1 slots=8`, one line a host, # for comments."""

import re

from mfa_train.config import ClusterConfig
from mfa_train.errors import ConfigError
from mfa_train.launch.lines import lines_of


def read_hosts(cluster: ClusterConfig) -> list[str]:
    """The hosts of cluster.hostfile, as they stand there. Raises ConfigError, naming the host, where one stands there
    twice or hosts and slots are not those of cluster.nodes and cluster.devices_per_node."""
    path, slots = str(cluster.hostfile), {}
    for number, line in lines_of("cluster.hostfile", path, "a line for each host, as node-1 slots=8"):
        # A name of plain characters: pdsh and shells have a meaning for others.
        parts = re.fullmatch(r"([\w.][\w.:@-]*)\s+slots=([0-9]{1,6})", line, re.ASCII)
        if not parts:
            raise ConfigError(
                f"cluster.hostfile={path}: line {number}: expected a host and its slots, as node-1 slots=8, not {line}"
            )
        if parts[1] in slots:
            raise ConfigError(
                f"cluster.hostfile={path}: host {parts[1]} stands there twice: leave one of the lines, "
                "with all its slots"
            )
        if not int(parts[2]):
            raise ConfigError(f"host {parts[1]}: slots=0 in {path}: type how many ranks it starts, or delete the line")
        slots[parts[1]] = int(parts[2])
    if not slots:
        raise ConfigError(f"cluster.hostfile={path}: names no host: a line for each, as node-1 slots=8")
    for host, count in slots.items():
        if count != cluster.devices_per_node:
            raise ConfigError(
                f"host {host}: slots={count} in {path}, but "
                f"cluster.devices_per_node={cluster.devices_per_node}: all hosts start the same number; "
                f"type cluster.devices_per_node={count}, or change the line"
            )
    if len(slots) != cluster.nodes:
        raise ConfigError(
            f"cluster.nodes={cluster.nodes}: {path} names {len(slots)} host{'s'[: len(slots) > 1]}: type "
            f"cluster.nodes={len(slots)}"
        )
    return list(slots)
