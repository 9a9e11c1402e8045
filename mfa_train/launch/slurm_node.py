"""SLURM's one task of a node: checks the node, then starts its ranks and ends as SLURM has to be told (`requeue`).

python -m mfa_train.launch.slurm_node JOB      # as launch/slurm.sbatch has srun call it
"""

import os
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from mfa_train.doors import report
from mfa_train.errors import ConfigError
from mfa_train.launch.environment import environment
from mfa_train.launch.job import read_job
from mfa_train.launch.node import ASKED, Node
from mfa_train.launch.output import note_failure
from mfa_train.launch.ports import require_free
from mfa_train.launch.requeue import NodeError, status_of_node
from mfa_train.launch.restart import Restarts, note_crash
from mfa_train.tracking.starts import versions


def main() -> int:
    """The exit status of this task. Raises NodeError where the job cannot run on this node."""
    host, slurm, job = socket.gethostname(), os.environ, None
    start = f"{slurm['SLURM_JOB_ID']}.{slurm.get('SLURM_RESTART_COUNT', 0)}"
    member = int(slurm.get("SLURM_ARRAY_TASK_ID", 0))
    try:
        job = read_job(sys.argv[1])
        installed = versions()
        for name, launched_with in job.versions.items():
            if (here := installed.get(name)) != launched_with:
                raise ConfigError(
                    f"{name} {here} is installed here, {launched_with} where the job was launched: all nodes must have "
                    "the same"
                )
        environment(job.environment)
        node, port = int(slurm["SLURM_NODEID"]), job.port or port_of(int(slurm["SLURM_JOB_ID"]))
        if node == 0:
            require_free(port)
    except ConfigError as error:
        message = f"host {slurm.get('SLURMD_NODENAME', host)}: {error}"
        if job:  # for `mfa-train status`
            run_dir = Path(job.members[member]["run_dir"])
            note_failure(run_dir, start, message)
            note_crash(run_dir, start, NodeError.exit_status)
        raise NodeError(message) from error
    if node == 0:
        Restarts(Path(job.members[member]["run_dir"]), job.max_restarts).begin()
    return status_of_node(Node(job, member, start, node, slurm["MASTER_ADDR"], port).run(), node)


def port_of(job: int) -> int:
    """Every node knows it from the number of the job; below those that the kernel gives to connections (32768 on)."""
    return 20000 + job % 12000


def run_task() -> NoReturn:
    """`main`, and the end of this process with its status."""
    statuses: list[int] = []
    status = report(lambda: statuses.append(main())) or statuses[0]
    sys.stdout.flush()
    sys.stderr.flush()
    if status not in ASKED:
        time.sleep(1)  # srun ends the step at once, and with it what it has not passed on of these words yet
    # Not sys.exit: it gives signals their default meaning back while it still works, and srun, which sends SIGTERM to a
    # node as soon as another has ended, would take its death for the job's.
    os._exit(status)


if __name__ == "__main__":
    run_task()
