"""What outlives the launcher of a run over ssh that gets SIGKILL: this process, which then ends the ranks on all hosts.

    python -m mfa_train.launch.orphans JOB PID HOST…      # PID: DeepSpeed's launcher, the first of its process group

The launcher holds the other end of its standard input, and says there that all is well. On one machine a process can
ask the kernel to be killed with its parent (`family`); over ssh nobody else notices.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from mfa_train.launch.hosts import end_everywhere
from mfa_train.launch.job import Job, read_job

WELL = b"well"


class Orphans:
    """Watches while it is entered: a launcher that dies takes the job's ranks along."""

    def __init__(self, job: Job, launcher: int, hosts: Sequence[str]):
        self.command = [sys.executable, "-m", "mfa_train.launch.orphans", job.word, str(launcher), *hosts]

    def __enter__(self) -> "Orphans":
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_) -> None:
        self.process.communicate(WELL)


def main() -> None:
    """Waits for the launcher to say that all is well, or to be gone."""
    job, launcher, *hosts = sys.argv[1:]
    if sys.stdin.buffer.read() == WELL:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(launcher), signal.SIGKILL)
    for pause in (0, 3, 10):  # what was about to start
        time.sleep(pause)
        end_everywhere(hosts, read_job(job), launchers=True)


if __name__ == "__main__":
    main()
