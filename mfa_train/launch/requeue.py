"""When a SLURM job is queued again: where it stopped as asked on every node, which its exit status says.

launch/slurm.sbatch, the job's script, tells SLURM so in its last lines: `scontrol requeue` where srun ended with 75
(`Stopped`: the run has saved and goes on). srun's own status is the highest of its tasks', and there is one task a node
(`slurm_node`): so what a node ends with is chosen here.
"""

import os

from mfa_train.errors import ConfigError, Stopped


class NodeError(ConfigError):
    """What is wrong with one of SLURM's nodes. The job is not queued again."""

    exit_status = os.EX_CONFIG
    """78, above that of `Stopped`: srun asks the other nodes to stop, and the highest status of all is the job's."""


def status_of_node(ranks_status: int, node: int) -> int:
    """What the task of node number `node` ends with, where its ranks ended with `ranks_status`."""
    if ranks_status in (0, Stopped.exit_status):
        # The first node tells that the run stopped: others that end before it with a status would have srun kill it.
        return ranks_status if node == 0 else 0
    return max(ranks_status, NodeError.exit_status)
