"""cluster=slurm: one job for a run, a job array for a sweep, from the script in launch/slurm.sbatch. The branches of a
ladder are a second array, which waits until the first has ended.

The script is submitted as it stands. What the config decides goes to sbatch as options, and what the ranks are to do
into the job's file, so that nothing has to be filled in or quoted. Each node then runs `slurm_node`; when the job is
queued again says `requeue`.
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
from mfa_train.launch.checks import move_aside
from mfa_train.launch.job import Job, make_folder, make_job
from mfa_train.launch.restart import Restarts
from mfa_train.run_files import LAUNCH, LOGS
from mfa_train.training.processes.device_kind import CUDA
from mfa_train.words import first_few

TEMPLATE = Path(__file__).resolve().parent.parent.parent / "launch" / "slurm.sbatch"
SUBMITTED = "submitted.json"
"""In a run's launch/: its job and when it was submitted, for `status`."""


@dataclass(frozen=True)
class Submission:
    members: Sequence[Member]
    job: Job
    script: Path
    """The script as it is submitted."""
    output: str
    """Where the job's own output goes, %j or %A_%a for its numbers."""
    branches: bool
    """Whether its runs branch off those of the submission before: it waits until that has ended, however."""

    def command(self, first: str) -> list[str]:
        """sbatch as it is called; `first` is the number of the submission before."""
        config, array = self.members[0].config, bool(self.members[0].swept)
        options = {
            "job-name": Path(self.job.folder).name if array else config.name,
            "nodes": str(self.job.nodes),
            "output": self.output,
            "gpus-per-node": str(self.job.devices_per_node) if self.job.device == CUDA else None,
            "time": config.cluster.time_limit,
            "array": _array(self.members) if array else None,
            "dependency": f"afterany:{first}" if self.branches else None,
        }
        return [
            "sbatch",
            "--parsable",
            *(f"--{name}={value}" for name, value in options.items() if value is not None),
            str(Path(self.job.folder) / "job.sbatch"),
            sys.executable,
            self.job.word,
        ]


def submissions(members: Sequence[Member], cwd: Path) -> list[Submission]:
    """What `launch` would hand to sbatch: one, and behind it the branches of a ladder whose runs are in it."""
    runs = {member.config.run_dir for member in members}
    first = [member for member in members if member.after not in runs]
    branches = [member for member in members if member.after in runs]
    return [
        _submission(first, make_job(first, cwd), False),
        *([_submission(branches, make_job(branches, cwd, "-branches"), True)] if branches else []),
    ]


def job_script(member: Member) -> Path:
    """The script that is submitted. Raises ConfigError where there is none."""
    script = Path(member.config.cluster.template or TEMPLATE)
    if not script.is_file():
        raise ConfigError(f"cluster.template={script}: no such file; leave it out for {TEMPLATE}")
    return script


def _submission(members: Sequence[Member], job: Job, branches: bool) -> Submission:
    script = job_script(members[0])
    array = bool(members[0].swept)
    logs = Path(job.folder) if array else Path(job.members[0]["run_dir"]) / LOGS
    # In a pattern of sbatch % has a meaning of its own.
    output = str(logs).replace("%", "%%") + ("/slurm-%A_%a.out" if array else "/slurm-%j.out")
    return Submission(members, job, script, output, branches)


def describe(submitted: Sequence[Submission]) -> str:
    """What `launch` would do, exactly, but for FIRST, the number of the first job; of a sweep's members the first
    few."""
    parts = []
    for one in submitted:
        told = [
            f"member {number}:\n  " + "\n  ".join(member["overrides"]) for number, member in enumerate(one.job.members)
        ]
        parts.append("\n".join([f"{shlex.join(one.command('FIRST'))}\n", *first_few(told)]))
    script = submitted[0].script
    shown = script.read_text(encoding="utf-8", errors="replace")  # sbatch takes any encoding
    return "\n\n".join((*parts, f"{script}:\n\n{shown}"))


def require_sbatch() -> None:
    """Raises ConfigError where there is none."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "cluster=slurm: there is no sbatch on this machine: type this on a login node, or cluster=local"
        )


def launch(submitted: Sequence[Submission]) -> list[str]:
    """Submits them; the jobs' numbers. Raises ConfigError where one is queued already, and with the scheduler's own
    words where it refuses."""
    require_idle(submitted)
    for one in submitted:
        move_aside(one.members)
        one.job.write()
        shutil.copyfile(one.script, Path(one.job.folder) / "job.sbatch")
        for member in one.job.members:
            make_folder(Path(member["run_dir"]) / LOGS)
            Restarts(Path(member["run_dir"]), one.job.max_restarts).forget()
    numbers: list[str] = []
    for one in submitted:
        numbers.append(_submit(one, numbers[0] if numbers else ""))
    return numbers


def _submit(one: Submission, first: str) -> str:
    done = subprocess.run(one.command(first), capture_output=True, text=True)
    if done.returncode:
        left = f"; job {first}, off which they branch, is submitted: type the same when it has ended" if first else ""
        raise ConfigError(
            f"sbatch refused the {'branches' if first else 'job'}: "
            f"{' '.join(done.stderr.split()).replace('sbatch: error: ', '')}{left}"
        )
    number = done.stdout.strip().split(";")[0]
    for index, member in enumerate(one.job.members):
        _note(Path(member["run_dir"]), f"{number}_{index}" if one.members[0].swept else number)
    return number


def told(submitted: Sequence[Submission], numbers: Sequence[str]) -> str:
    """Where to look, and what to type."""
    lines = []
    for one, number in zip(submitted, numbers):
        folder, _, pattern = one.output.rpartition("/")
        output = f"{folder}/{pattern.replace('%j', number).replace('%A', number).replace('%a', '0')}"
        first = Path(one.job.members[0]["run_dir"])
        runs = f"{len(one.members)} in {first.parent}" if one.members[0].swept else str(first)
        lines += [
            f"job         {number}",
            f"run folder  {runs}",
            *([f"waits for   {numbers[0]}, off whose runs these branch"] if one.branches else []),
            f"follow      tail -F {shlex.quote(output.replace('%%', '%'))}",
        ]
    runs_dir, jobs = Path(submitted[0].job.members[0]["run_dir"]).parent, " ".join(numbers)
    return "\n".join(
        (
            *lines,
            f"            mfa-train status {shlex.quote(str(runs_dir))}",
            f"cancel      scancel {jobs}",
            f"            scancel --signal=USR1 {jobs}    (save, and queue it again)",
        )
    )


def _array(members: Sequence[Member]) -> str:
    parallel = members[0].config.sweep.parallel
    return f"0-{len(members) - 1}" + (f"%{parallel}" if parallel else "")


def _note(run_dir: Path, number: str) -> None:
    folder = run_dir / LAUNCH
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUBMITTED).write_text(json.dumps({"job": number, "at": time.time()}) + "\n", encoding="utf-8")


def require_idle(submitted: Sequence[Submission]) -> None:
    """Raises ConfigError where a job of one of the runs is still queued or running."""
    for member in (member for one in submitted for member in one.job.members):
        try:
            number = json.loads((Path(member["run_dir"]) / LAUNCH / SUBMITTED).read_text())["job"]
        except (OSError, ValueError, KeyError):
            continue
        queued = subprocess.run(
            ["squeue", "--noheader", "--format=%T", f"--jobs={number}"], capture_output=True, text=True
        )
        if state := queued.stdout.split():
            raise ConfigError(
                f"{member['run_dir']}: job {number} of this run is {state[0].lower()} already: type "
                f"scancel {number} first, or name=… for a run beside it"
            )
