"""cluster=slurm: one job for a run, a job array for a sweep, from the script in launch/slurm.sbatch.

The script is submitted as it stands. What the config decides goes to sbatch as options, and what the ranks are to do
into the job's file, so that nothing has to be filled in or quoted.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.launch.checks import move_aside, on_gpus
from mfa_train.launch.job import Job
from mfa_train.run_files import LAUNCH, LOGS

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "launch" / "slurm.sbatch"
SUBMITTED = "submitted.json"
"""In a run's launch/: its job and when it was submitted, for `status`."""


@dataclass(frozen=True)
class Submission:
    command: list[str]
    script: Path
    """The script as it is submitted."""
    output: str
    """Where the job's own output goes, %j or %A_%a for its numbers."""


def submission(members: Sequence[Member], job: Job, after: str | None = None) -> Submission:
    """What `launch` would hand to sbatch. `after` is the job of the runs that these branch off; it need not succeed, so that
    one failed run holds up no other's branches."""
    config = members[0].config
    script = Path(config.cluster.template or TEMPLATE)
    if not script.is_file():
        raise ConfigError(f"cluster.template={script}: no such file; leave it out for {TEMPLATE}")
    array = bool(members[0].swept)
    logs = Path(job.folder) if array else Path(job.members[0]["run_dir"]) / LOGS
    # In a pattern of sbatch % has a meaning of its own.
    output = str(logs).replace("%", "%%") + ("/slurm-%A_%a.out" if array else "/slurm-%j.out")
    options = {
        "job-name": Path(job.folder).name if array else config.name, "nodes": str(job.nodes), "output": output,
        "gpus-per-node": str(job.devices_per_node) if on_gpus(config.cluster) else None,
        "time": config.cluster.time_limit, "array": _array(members) if array else None,
        "dependency": f"afterany:{after}" if after else None,
    }
    command = ["sbatch", "--parsable", *(f"--{name}={value}" for name, value in options.items() if value is not None),
               str(Path(job.folder) / "job.sbatch"), sys.executable, job.word]
    return Submission(command, script, output)


def describe(members: Sequence[Member], job: Job, after: str | None = None) -> str:
    """What `launch` would do, exactly."""
    asked = submission(members, job, after)
    told = "\n".join(f"member {number}:\n  " + "\n  ".join(member["overrides"])
                     for number, member in enumerate(job.members))
    return f"{shlex.join(asked.command)}\n\n{asked.script}:\n\n{asked.script.read_text()}\n{told}"


def launch(members: Sequence[Member], job: Job, after: str | None = None) -> str:
    """Submits it; the job's id. Raises ConfigError for what would fail in the queue or in the job, and with the
    scheduler's own words where it refuses."""
    if shutil.which("sbatch") is None:
        raise ConfigError("cluster=slurm: there is no sbatch on this machine: type this on a login node, or "
                          "cluster=local")
    _require_idle(job)
    asked = submission(members, job, after)
    move_aside(members)
    job.write()
    shutil.copyfile(asked.script, Path(job.folder) / "job.sbatch")
    for member in job.members:
        (Path(member["run_dir"]) / LOGS).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(asked.command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"sbatch refused the job: {' '.join(done.stderr.split()).replace('sbatch: error: ', '')}")
    number = done.stdout.strip().split(";")[0]
    for index, member in enumerate(job.members):
        _note(Path(member["run_dir"]), f"{number}_{index}" if members[0].swept else number)
    return number


def told(members: Sequence[Member], job: Job, number: str) -> str:
    """Where to look, and what to type."""
    folder, _, pattern = submission(members, job).output.rpartition("/")
    output = f"{folder}/{pattern.replace('%j', number).replace('%A', number).replace('%a', '0')}"
    first = Path(job.members[0]["run_dir"])
    runs = f"{len(members)} in {first.parent}" if members[0].swept else str(first)
    return "\n".join((
        f"job         {number}",
        f"run folder  {runs}",
        f"follow      tail -F {shlex.quote(output.replace('%%', '%'))}",
        f"            mfa-train status {shlex.quote(str(first.parent))}",
        f"cancel      scancel {number}",
        f"            scancel --signal=USR1 {number}    (save, and queue it again)"))


def _array(members: Sequence[Member]) -> str:
    parallel = members[0].config.sweep.parallel
    return f"0-{len(members) - 1}" + (f"%{parallel}" if parallel else "")


def _note(run_dir: Path, number: str) -> None:
    folder = run_dir / LAUNCH
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUBMITTED).write_text(json.dumps({"job": number, "at": time.time()}) + "\n", encoding="utf-8")


def _require_idle(job: Job) -> None:
    """Raises ConfigError where a job of one of the runs is still queued or running."""
    for member in job.members:
        try:
            number = json.loads((Path(member["run_dir"]) / LAUNCH / SUBMITTED).read_text())["job"]
        except (OSError, ValueError, KeyError):
            continue
        queued = subprocess.run(["squeue", "--noheader", "--format=%T", f"--jobs={number}"], capture_output=True,
                                text=True)
        if state := queued.stdout.split():
            raise ConfigError(f"{member['run_dir']}: job {number} of this run is {state[0].lower()} already: type "
                              f"scancel {number} first, or name=… for a run beside it")
