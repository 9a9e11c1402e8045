"""The hosts of a job over ssh: asked all at once before anything starts, so that what is wrong with one is told by its
name."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mfa_train.config import Config
from mfa_train.errors import ConfigError
from mfa_train.launch.job import Job, make_folder
from mfa_train.launch.probe import Answer, Question

SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
ALIVE_OPTIONS = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""A host that is cut off is noticed after 15 seconds."""
CLOCK_SECONDS = 5.0
"""That clocks may be apart: logs, records and the watchdog's last words are read side by side."""


def require_ready(hosts: Sequence[str], config: Config, job: Job, on_gpus: bool, say: Callable[[str], None]) -> int:
    """The port where the ranks meet. Raises ConfigError, naming the host, for one that can't be reached, stands there
    twice, has other versions, another clock, too few GPUs, the port in use, or doesn't see the run's or the corpus's
    folder."""
    run_dir = Path(job.members[0]["run_dir"])
    make_folder(run_dir)
    data = None if "://" in config.data.path else str(Path(config.data.path).absolute() / "manifest.json")
    try:
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=".seen-") as token, ThreadPoolExecutor(64) as threads:
            answers = list(
                threads.map(
                    lambda host: _asked(
                        host, Question(job.word, token.name, data, job.environment, job.port, host == hosts[0], on_gpus)
                    ),
                    hosts,
                )
            )
    finally:
        with contextlib.suppress(OSError):  # it holds a run
            run_dir.rmdir()
    machines: dict[str, str] = {}
    for host, (answer, clock) in zip(hosts, answers):
        if (other := machines.setdefault(answer.machine, host)) != host:
            raise ConfigError(
                f"host {host}: is the machine {other} by another name: leave one of the lines in "
                f"{config.cluster.hostfile}, with all its slots"
            )
        if answer.ended:
            say(f"host {host}: ended {answer.ended} ranks that an earlier launch of this run had left there")
        require_alike(host, answer, clock, job)
        if not answer.sees_token:
            raise ConfigError(
                f"host {host}: {run_dir} is not the folder that it is here: runs_dir must be on storage "
                "that all hosts share"
            )
        if not answer.sees_data:
            raise ConfigError(
                f"host {host}: {data} is not there: data.path must be on storage that all hosts share, "
                "or at the same place on each"
            )
        if not answer.sees_environment:
            raise ConfigError(
                f"host {host}: cluster.environment={job.environment} cannot be read there: it must be at the same "
                "place "
                "on each host"
            )
        if on_gpus and answer.gpus < job.devices_per_node:
            raise ConfigError(
                f"host {host}: has {answer.gpus} GPUs, its slots are {job.devices_per_node}: correct "
                f"{config.cluster.hostfile} and type cluster.devices_per_node={answer.gpus or 1}"
            )
    if (port := answers[0][0].port) is None:
        raise ConfigError(
            f"host {hosts[0]}: cluster.port={job.port} is in use there: type another, or "
            "cluster.port=null for a free one"
        )
    return port


def require_alike(host: str, answer: Answer, clock: float, job: Job) -> None:
    """Raises ConfigError where the host's libraries or clock (seconds ahead of this machine's) are not as they are
    here."""
    for name, here in job.versions.items():
        if (there := answer.versions.get(name)) != here:
            raise ConfigError(
                f"host {host}: {name} {there} is installed there, {here} here: all hosts must have the same"
            )
    if abs(clock) > CLOCK_SECONDS:
        raise ConfigError(
            f"host {host}: its clock is {abs(clock):.0f} s {'ahead of' if clock > 0 else 'behind'} this "
            "machine's: set it, as with chronyc makestep"
        )


def end_everywhere(hosts: Sequence[str], job: Job, launchers: bool = False) -> None:
    """Kills the job's ranks on each host that can be reached, with `launchers` DeepSpeed's launcher of them there
    too."""

    def end(host: str) -> None:
        with contextlib.suppress(ConfigError):
            _on(host, {"end": job.word, "launchers": launchers})

    with ThreadPoolExecutor(64) as threads:
        list(threads.map(end, hosts))


def signal_first(hosts: Sequence[str], job: Job) -> bool:
    """Asks the run to save and stop, through its first rank; False where that is not known or not reached."""
    try:
        holder = json.loads((Path(job.members[0]["run_dir"]) / "run.lock").read_text(encoding="utf-8"))
        return not subprocess.run(
            ["ssh", *SSH_OPTIONS, hosts[0], f"kill -USR1 {int(holder['pid'])}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
        ).returncode
    except (OSError, ValueError, KeyError):
        return False


def _asked(host: str, question: Question) -> tuple[Answer, float]:
    """The host's answer, and by how many seconds its clock is ahead."""
    content = _on(host, vars(question))
    return Answer(**content), content["time"] - time.time()


def _on(host: str, question: dict) -> dict:
    """What the probe on `host` says. Raises ConfigError."""
    path = shlex.quote(os.environ.get("PYTHONPATH", ""))
    command = (
        f"cd {shlex.quote(os.getcwd())} && PYTHONPATH={path} exec {shlex.quote(sys.executable)} "
        "-m mfa_train.launch.probe"
    )
    done = subprocess.run(
        ["ssh", *SSH_OPTIONS, *ALIVE_OPTIONS, host, command], input=json.dumps(question), capture_output=True, text=True
    )
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if done.returncode == 255:
        raise ConfigError(f"host {host}: cannot be reached by ssh without a password ({last}); try: ssh {host} true")
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise ConfigError(
            f"host {host}: {sys.executable} -m mfa_train.launch.probe does not run there ({last}): it "
            f"and {os.getcwd()} must be at the same place on every host"
        ) from None
