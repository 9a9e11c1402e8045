"""cluster=ssh: a run on the hosts of a hostfile, through DeepSpeed's launcher and pdsh, in the foreground.

    1. All hosts are asked whether they are reachable and alike (`hosts`).
    2. DeepSpeed's launcher starts `cluster.devices_per_node` ranks on each; rank 0's words come back to the terminal.
    3. Ctrl-C, SIGTERM and SIGUSR1 ask the run to save and stop, through its first rank; a second Ctrl-C, whatever came
       before the first, kills it.
    4. A launcher that gets SIGKILL leaves nothing behind (`orphans`).
    5. A host that fails or is cut off takes the others along: within half a minute nothing runs on those in reach, and
       the same command goes on from the last checkpoint; with cluster.max_restarts it does so by itself (`restart`),
       where all hosts can be reached.

DeepSpeed's launcher joins words for a shell on each host, so it gets plain ones alone; the config goes by the job's
file.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mfa_train.config import Config, Member
from mfa_train.errors import ConfigError, Stopped, TrainingError
from mfa_train.launch.checks import move_aside
from mfa_train.launch.hostfile import read_hosts
from mfa_train.launch.hosts import ALIVE_OPTIONS, SSH_OPTIONS, end_everywhere, require_ready, signal_first
from mfa_train.launch.job import Job
from mfa_train.launch.orphans import Orphans
from mfa_train.launch.output import failure_file
from mfa_train.launch.restart import FINAL, Restarts
from mfa_train.training.processes.device_kind import CUDA

LOST = 255
"""ssh's status of a host that can't be reached."""
GRACE_SECONDS = {Stopped.exit_status: 60, LOST: 0}
"""That the other hosts have to end by themselves when one ended with this status; 10 otherwise."""
NOISE = re.compile(r"^pdsh@|\[(INFO|ERROR)\] \[(launch|runner)\.py|\[WARNING\] \[real_accelerator\.py")
"""Lines of pdsh and of DeepSpeed's launcher that say nothing of the run."""
PLAIN = re.compile(r"[\w@%+=:,./-]+")


def command_of(config: Config, job: Job, port: int | str, start: str) -> list[str]:
    """DeepSpeed's launcher as it is called."""
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "--hostfile",
        str(config.cluster.hostfile),
        "--launcher",
        "pdsh",
        "--launcher_args=-N",
        "--force_multi",
        "--quiet",
        "--no_local_rank",
        "--master_port",
        str(port),
        "--module",
        "mfa_train.launch.rank",
        job.word,
        "0",
        start,
    ]


def describe(member: Member, job: Job) -> str:
    """What `launch` would run."""
    hosts = read_hosts(member.config.cluster)
    return (
        f"{shlex.join(command_of(member.config, job, job.port or 'FREE', 'START'))}\n\non {', '.join(hosts)}, each "
        "rank with\n  " + "\n  ".join(job.members[0]["overrides"])
    )


def require_way(member: Member) -> None:
    """Raises ConfigError where this machine can't start ranks elsewhere, or the hostfile is not as the config says."""
    read_hosts(member.config.cluster)
    for tool in ("ssh", "pdsh"):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"cluster=ssh: {tool} is not installed here: apt-get install pdsh openssh-client (or dnf)"
            )
    for place in (os.getcwd(), sys.executable):
        if not PLAIN.fullmatch(place):
            raise ConfigError(
                f"cluster=ssh: DeepSpeed's launcher can't pass {place!r} on: type this in a folder, and "
                "with a Python, of plain characters"
            )


def launch(member: Member, job: Job) -> int:
    """Runs it to its end; the run's own exit status. Raises ConfigError for what is wrong with a host, TrainingError
    where one was lost."""
    hosts, number = read_hosts(member.config.cluster), 0
    port = require_ready(hosts, member.config, job, job.device == CUDA, print)
    move_aside([member])
    job.write()
    restarts = Restarts(Path(job.members[0]["run_dir"]), job.max_restarts)
    restarts.forget()
    begun = f"{os.getpid()}-{int(time.time())}"
    while True:
        start = f"{begun}.{number}" if number else begun
        restarts.begin()
        run, lost = _Run(hosts, job, start), None
        try:
            status, why = run.watch(command_of(member.config, job, port, start)), ""
        except TrainingError as error:
            status, why, lost = error.exit_status, str(error).split(":")[0], error
        why = why or f"the run ended with status {status}"
        if status not in FINAL and not run.asked and restarts.again(why):
            try:
                port = require_ready(hosts, member.config, job, job.device == CUDA, print)
                if not run.asked:  # to stop, meanwhile
                    number += 1
                    continue
            except ConfigError as refused:
                print(f"=== not started again after all: {refused}", flush=True)
        if lost:
            raise lost
        return status


class _Run:
    def __init__(self, hosts: Sequence[str], job: Job, start: str):
        self.hosts, self.job, self.start = hosts, job, start
        self.ended: dict[str, int] = {}
        """Exit status by host, of those that ended with one, the first first."""
        self.asked, self.interrupts, self.killed = False, 0, False

    def watch(self, command: list[str]) -> int:
        options = shlex.join([*SSH_OPTIONS, *ALIVE_OPTIONS])
        appended = f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {options}".strip()
        self.launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env=os.environ | {"PDSH_SSH_ARGS_APPEND": appended},
        )
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda number, _: self._ask(number))
        with Orphans(self.job, self.launcher.pid, self.hosts):
            self._wait()
        return self._status()

    def _wait(self) -> None:
        reader = threading.Thread(target=self._read)
        reader.start()
        deadline = None
        while self.launcher.poll() is None:
            if self.ended and deadline is None:
                deadline = time.monotonic() + GRACE_SECONDS.get(next(iter(self.ended.values())), 10)
            if self.killed or (deadline and time.monotonic() > deadline):
                self.launcher.terminate()  # it then ends the ranks everywhere, if slowly
                self.launcher.wait()
                self._end_the_rest()
            time.sleep(0.1)
        reader.join()
        if LOST in self.ended.values():  # the launcher may have ended by itself, before those that it started
            self._end_the_rest()

    def _end_the_rest(self) -> None:
        reached = [host for host in self.hosts if self.ended.get(host) != LOST]
        end_everywhere(reached, self.job, launchers=True)

    def _read(self) -> None:
        for line in self.launcher.stdout or ():
            if found := re.match(r"pdsh@\S+: (\S+): ssh exited with exit code (\d+)", line):
                self.ended.setdefault(found[1], int(found[2]))
            elif not NOISE.search(line):
                print(line, end="", flush=True)

    def _ask(self, number: int) -> None:
        self.interrupts += number == signal.SIGINT
        if not self.asked:
            self.asked = True
            print(
                f"\n{signal.Signals(number).name}: asking the run to save and stop; Ctrl-C "
                f"{'once more' if self.interrupts else 'twice'}"
                " kills it",
                flush=True,
            )
            self.killed = not signal_first(self.hosts, self.job)
        self.killed |= self.interrupts > 1

    def _status(self) -> int:
        if self.killed:
            raise Stopped("the run, killed on all hosts; the same command goes on from its last checkpoint")
        lost = [host for host, status in self.ended.items() if status == LOST]
        if lost:
            raise TrainingError(
                f"host {lost[0]} can't be reached any more: the run was ended on the others. When it "
                "is back, the same command goes on from the last checkpoint"
            )
        first = next(iter(self.ended.items()), None)
        if (
            first
            and first[1] != Stopped.exit_status
            and not failure_file(Path(self.job.members[0]["run_dir"]), self.start).exists()
        ):
            raise TrainingError(
                f"host {first[0]}: its ranks ended with status {first[1]} and no words; their logs are "
                f"in {self.job.members[0]['run_dir']}/logs"
            )
        return first[1] if first else self.launcher.returncode
