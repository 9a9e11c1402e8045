"""The ranks of one node, started together and ended together; here a rank that fails or is killed is noticed.

`local` makes one on this machine, `slurm_node` one on each of SLURM's.

Why not torchrun: it gives its ranks 30 seconds between SIGTERM and SIGKILL, less than a large checkpoint takes; SIGUSR1
ends it without a word to its ranks; and its own status is 1 whatever theirs was, so that no scheduler can tell a run
that stopped (75, requeue it) from one that failed.

    - A signal that asks to stop (SIGTERM, SIGUSR1, SIGINT) is passed on; the ranks have all the time they need to save.
      A second SIGINT, whatever came before the first, kills them.
    - A rank that fails takes the others along after a few seconds, in which they may say what they saw.
    - The status is 0; 75 where all stopped as asked; else that of the first rank to fail.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mfa_train.errors import Stopped
from mfa_train.launch.family import dies_with
from mfa_train.launch.job import Job
from mfa_train.launch.output import failure_file, first_to_fail, log_of, show_failure
from mfa_train.launch.restart import note_crash

GRACE_SECONDS = 10
"""That the other ranks have when one has failed."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Those that ask a run to stop."""
ASKED = (0, Stopped.exit_status, -signal.SIGTERM, -signal.SIGUSR1)
"""Statuses of a rank that was asked to stop; the signals' own before its first step."""


def is_kill(status: int | None) -> bool:
    """Whether it is that of a rank that a signal ended which doesn't ask to stop."""
    return status is not None and status < 0 and status not in ASKED


class Node:
    """The ranks of node number `node` that train member number `member` of `job`; all nodes' ranks meet at
    `address`:`port`. `start` names this start of the run."""

    def __init__(self, job: Job, member: int, start: str, node: int, address: str, port: int):
        self.job, self.member, self.start = job, member, start
        self.run_dir = Path(job.members[member]["run_dir"])
        self.first_rank = node * job.devices_per_node
        self.environment = os.environ | {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(job.world_size),
        }
        self.ranks: list[subprocess.Popen] = []
        self.asked, self.interrupts = False, 0

    def run(self) -> int:
        """Starts the ranks and waits until all have ended; the exit status of them all."""
        logs = [log_of(self.run_dir, self.first_rank + local) for local in range(self.job.devices_per_node)]
        log_begins = [log.stat().st_size if log.exists() else 0 for log in logs]  # behind those of earlier starts
        for number in STOP_SIGNALS:
            signal.signal(number, self._pass_on)
        for local in range(self.job.devices_per_node):
            # A session of its own: a terminal's Ctrl-C comes through this process alone.
            self.ranks.append(
                subprocess.Popen(
                    [sys.executable, "-u", "-m", "mfa_train.launch.rank", self.job.word, str(self.member), self.start],
                    env=self.environment | {"RANK": str(self.first_rank + local), "LOCAL_RANK": str(local)},
                    start_new_session=True,
                    preexec_fn=dies_with(os.getpid()),
                )
            )
        failed = self._first_to_fail()
        if failed is not None:
            if (first := self.ranks[failed].returncode) not in ASKED:
                note_crash(self.run_dir, self.start, first, self.first_rank + failed)
                if is_kill(first) and not self.asked:  # at once: the others will tell of the connection they lost
                    self._show(failed, log_begins[failed])
            self._end_the_others()
        statuses = [rank.wait() for rank in self.ranks]
        if failed is None:
            return 0
        if all(status in ASKED for status in statuses) and (self.asked or Stopped.exit_status in statuses):
            failed_elsewhere = failure_file(self.run_dir, self.start).exists()
            return 1 if failed_elsewhere else Stopped.exit_status
        # The others may be faster to end than the one whose end they die of.
        noted = first_to_fail(self.run_dir, self.start)
        if noted is not None and 0 <= noted - self.first_rank < len(statuses) and statuses[noted - self.first_rank]:
            failed = noted - self.first_rank
        status = statuses[failed]
        if status < 0 or not failure_file(self.run_dir, self.start).exists():
            self._show(failed, log_begins[failed])
        return status if status > 0 else 128 - status

    def _show(self, failed: int, log_begin: int) -> None:
        """Shows the failure of the node's rank `failed`, which has ended; nothing where another's was shown."""
        status = self.ranks[failed].returncode
        words = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        show_failure(self.run_dir, self.start, self.first_rank + failed, log_begin, sys.stderr, words)

    def _first_to_fail(self) -> int | None:
        """Waits for all ranks to end well, or for the first that does not, and gives its number on this node; None
        where all did. Of several between two looks one that was killed comes before those that could say why."""
        while True:
            statuses = [rank.poll() for rank in self.ranks]
            failed = [local for local, status in enumerate(statuses) if status not in (None, 0)]
            if failed:
                return min(failed, key=lambda local: (not is_kill(statuses[local]), local))
            if None not in statuses:
                return None
            time.sleep(0.05)

    def _end_the_others(self) -> None:
        """Waits for the ranks to end, longer where one has stopped as asked, and kills those that don't."""
        stopping = all(rank.poll() in (None, *ASKED) for rank in self.ranks)
        deadline = time.monotonic() + (6 * GRACE_SECONDS if stopping else GRACE_SECONDS)
        while time.monotonic() < deadline and any(rank.poll() is None for rank in self.ranks):
            time.sleep(0.05)
        for rank in self.ranks:
            if rank.poll() is None:
                rank.kill()

    def _pass_on(self, number: int, _) -> None:
        """Handles signal `number`: what has come is sent to every rank that is there."""
        self.asked, self.interrupts = True, self.interrupts + (number == signal.SIGINT)
        for rank in self.ranks:
            if rank.poll() is None:
                # SIGINT as SIGTERM: to a rank a second SIGINT, as a scheduler may have sent it one too, means not to
                # save.
                rank.send_signal(
                    signal.SIGKILL if self.interrupts > 1 else signal.SIGTERM if number == signal.SIGINT else number
                )


if __name__ == "__main__":  # job scripts of sites, and jobs queued, from before slurm_node was a file of its own
    from mfa_train.launch.slurm_node import run_task

    run_task()
