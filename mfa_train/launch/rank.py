"""One rank of a launched job: its overrides from the job's file, its words into its log.

    python -m mfa_train.launch.rank JOB [MEMBER [START]]

`node` starts it on this machine and on SLURM's nodes, DeepSpeed's launcher on hosts over ssh; RANK, WORLD_SIZE and
LOCAL_RANK are theirs. It exits with the run's own status.
"""

import os
import sys
import traceback
from pathlib import Path

from mfa_train import config as configs
from mfa_train.doors import report, trainer
from mfa_train.errors import Stopped, UserError
from mfa_train.launch.environment import environment
from mfa_train.launch.family import die_with_parent
from mfa_train.launch.job import Job, read_job
from mfa_train.launch.output import RankOutput
from mfa_train.launch.restart import note_crash
from mfa_train.tracking.wandb_run import forget_run
from mfa_train.training.processes.device_kind import CUDA, choose_allocator, prepare_environment, require_device


def main() -> int:
    """Trains what the command line names; the exit status."""
    die_with_parent()
    job = read_job(sys.argv[1])
    member, start = (*sys.argv[2:], "0", "0")[:2]
    return work(job, int(member), start)


def work(job: Job, member: int, start: str) -> int:
    """Trains member number `member` of `job` as this rank, which the environment numbers; `start` names this start of
    the run. Gives the exit status."""
    run_dir, overrides = Path(job.members[member]["run_dir"]), job.members[member]["overrides"]
    if job.is_sweep:
        forget_run(os.environ)
    os.environ["LOCAL_WORLD_SIZE"] = str(job.devices_per_node)  # not every launcher says it
    rank = int(os.environ.get("RANK", 0))
    output, reported, shared = RankOutput(run_dir, rank, start), False, False

    def train() -> None:
        nonlocal reported, shared
        try:
            os.environ.update(environment(job.environment))
            # The ranks share the node's cores; torch alone would start as many threads as cores in each.
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // job.devices_per_node)))
            choose_allocator()  # `require_device` imports torch
            if job.device is not None:
                prepare_environment(job.device)
                if job.device == CUDA:
                    require_device(int(os.environ.get("LOCAL_RANK", 0)))
            config = configs.load(overrides)
            trainer()(config)
        except UserError as error:
            reported, shared = rank == 0 or not error.everywhere, error.everywhere
            raise

    try:
        status = report(train)
    except Exception as error:
        print(traceback.format_exc(), file=sys.__stderr__, flush=True)  # the log: of those that fail the first is shown
        output.lost(error)
        output.failed()
        return 1
    if shared and job.max_restarts and status != Stopped.exit_status:
        note_crash(run_dir, start, status, rank, everywhere=True)  # before this process's end, of which the node tells
    if reported and status != Stopped.exit_status:
        output.failed(shown=rank == 0)
    return status


if __name__ == "__main__":
    sys.exit(report(lambda: sys.exit(main())))
