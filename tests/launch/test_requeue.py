"""When SLURM queues a job again."""

import pytest

from mfa_train.errors import Stopped
from mfa_train.launch.requeue import NodeError, status_of_node


@pytest.mark.parametrize(
    "of_ranks, of_job", [([0, 0], 0), ([75, 75], 75), ([75, 1], 78), ([1, 75], 78), ([0, 137], 137)]
)
def test_a_job_is_queued_again_where_all_nodes_stopped_as_asked_and_ends_above_that_where_one_failed(of_ranks, of_job):
    """srun's status, on which launch/slurm.sbatch queues again, is the highest of its tasks'."""
    assert max(status_of_node(status, node) for node, status in enumerate(of_ranks)) == of_job
    assert Stopped.exit_status < NodeError.exit_status
