"""The part of the schema that is about where a run's processes are started, and about sweeps of runs."""

import re
from dataclasses import dataclass
from typing import Any

from mfa_train.config.ladder_schema import LadderConfig
from mfa_train.config.places import local
from mfa_train.config.requirements import (
    require_choice,
    require_not_negative,
    require_number,
    require_positive,
    require_whole,
)
from mfa_train.errors import ConfigError

LAUNCHERS = ("local", "slurm", "ssh")


@dataclass
class ClusterConfig:
    """The devices a plan is for, and the way to start processes on them; see `mfa_train.launch`."""

    launcher: str
    """local | slurm | ssh."""
    device: str
    """auto (this machine's) or a name of `mfa_train.budget.devices`."""
    nodes: int
    devices_per_node: int
    price_per_device_hour: float | None
    network_gbits: float | None
    """Of one node, Gbit/s one way, all its cards together; null: as the device's vendor builds it."""
    port: int | None
    """On the first node, where the ranks meet; null: chosen."""
    environment: str | None
    """A file of KEY=VALUE lines that every rank gets."""
    shared: list[str]
    """Folders that all nodes see. Where some are named, runs and data must lie in them."""
    time_limit: str | None
    """SLURM's, as 24:00:00; null: the partition's."""
    max_restarts: int
    """How often a run that crashed is started again by itself; see `mfa_train.launch.restart`."""
    template: str | None
    """The job script for SLURM."""
    hostfile: str | None
    """Of ssh: a line for each host, as `node-1 slots=8`."""

    def __post_init__(self):
        require_choice("cluster.launcher", self.launcher, LAUNCHERS)
        require_positive("cluster.nodes", self.nodes, 100_000)
        require_positive("cluster.devices_per_node", self.devices_per_node, 1024)
        require_whole("cluster.max_restarts", self.max_restarts, 0, 1000)
        if self.price_per_device_hour is not None:
            require_not_negative("cluster.price_per_device_hour", self.price_per_device_hour, 1e12)
        if self.network_gbits is not None:
            require_number("cluster.network_gbits", self.network_gbits, 1e-3, 1e9)
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(f"cluster.port={self.port}: expected a port from 1 to 65535, or null")
        if self.time_limit is not None and not re.fullmatch(
            r"([0-9]{1,5}-)?[0-9]{1,8}(:[0-9]{1,2}){0,2}", self.time_limit
        ):
            raise ConfigError(
                f"cluster.time_limit={ascii(self.time_limit)[1:-1][:40]}: expected SLURM's form, as "
                "cluster.time_limit='24:00:00' or '2-12:00:00'"
            )
        for key in ("environment", "template", "hostfile"):
            if (file := getattr(self, key)) is not None:
                setattr(self, key, local(f"cluster.{key}", file, "file"))
        self.shared = [local("cluster.shared", folder) for folder in self.shared]

    @property
    def world_size(self) -> int:
        return self.nodes * self.devices_per_node


@dataclass
class SweepConfig:
    """What `-m` runs over beside what is typed, and how; see `mfa_train.launch.sweep`."""

    over: dict[str, list[Any]]
    """Values of each key that a ready sweep goes over; a key that is typed goes before."""
    ladder: LadderConfig | None
    """Instead of `over`."""
    parallel: int | None
    """Members at a time; null: one on this machine, as many as the scheduler lets on SLURM."""
    retries: int
    """Of a failed member, on this machine."""

    def __post_init__(self):
        if self.parallel is not None:
            require_positive("sweep.parallel", self.parallel, 10_000)
        require_whole("sweep.retries", self.retries, 0, 1000)
