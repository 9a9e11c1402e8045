"""cluster=local: one rank in this process, several as one node's."""

import os
import time
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch.checks import move_aside
from mfa_train.launch.job import Job
from mfa_train.launch.node import Node
from mfa_train.launch.ports import free_port, require_free
from mfa_train.launch.rank import work
from mfa_train.launch.restart import FINAL, Restarts, crash_of, words_of
from mfa_train.training.processes.device_kind import CPU, CUDA


def describe(member: Member, job: Job) -> str:
    """What `launch` would run."""
    ranks = member.config.cluster.devices_per_node
    return f"{ranks} rank{'s' if ranks > 1 else ''} of train.py on this machine, each with\n  " + "\n  ".join(
        job.members[0]["overrides"]
    )


def require_one_node(member: Member) -> None:
    if (nodes := member.config.cluster.nodes) != 1:
        raise ConfigError(
            f"cluster.nodes={nodes}: cluster=local is this machine alone: type cluster.nodes=1, or "
            "cluster=slurm or cluster=ssh"
        )
    ranks, most = member.config.cluster.devices_per_node, max(8, 2 * len(os.sched_getaffinity(0)))
    if ranks > most:
        import torch

        if ranks > max(most, torch.cuda.device_count()):
            raise ConfigError(
                f"cluster.devices_per_node={ranks}: this machine has {torch.cuda.device_count()} GPUs and "
                f"{len(os.sched_getaffinity(0))} cores: type cluster.devices_per_node={torch.cuda.device_count() or 1}"
            )


def require_devices(member: Member) -> None:
    """Raises ConfigError for a job for GPUs that this machine, which would train it, lacks."""
    cluster = member.config.cluster
    if cluster.device in ("auto", CPU):
        return
    import torch

    from mfa_train.budget.devices import planned_device

    named = planned_device(cluster.device, 1)  # which raises for a name that is in no table
    if named.type == CUDA and (there := torch.cuda.device_count()) < cluster.devices_per_node:
        ranks = "one rank" if cluster.devices_per_node == 1 else f"{cluster.devices_per_node} ranks"
        raise ConfigError(
            f"cluster.device={cluster.device}: cluster=local trains on this machine, which has {there or 'no'} GPU"
            f"{'s' if there > 1 else ''} for {ranks}: type cluster.device=auto, or cluster=slurm or cluster=ssh"
        )


def launch(member: Member, job: Job) -> int:
    """Runs it to its end; its exit status. Raises ConfigError where cluster.port is in use."""
    if job.port and job.devices_per_node > 1:
        require_free(job.port)
    move_aside([member])
    job.write()
    start = f"{os.getpid()}-{int(time.time())}"
    if job.devices_per_node == 1 and not job.max_restarts:
        return work(job, 0, start)
    run_dir = Path(job.members[0]["run_dir"])
    restarts = Restarts(run_dir, job.max_restarts)
    restarts.forget()
    number, status = 0, 0
    node: Node | None = None
    while True:
        this = f"{start}.{number}" if number else start
        restarts.begin()
        if node and node.asked:  # to stop, when its ranks had crashed already
            return status
        node = Node(job, 0, this, 0, "127.0.0.1", job.port or free_port())
        status = node.run()
        if status in FINAL or node.asked or not restarts.again(words_of(crash_of(run_dir, this), status)):
            return status
        number += 1
