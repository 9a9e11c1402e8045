"""A run that crashed is started again, at most cluster.max_restarts times a launch, where that can help.

    python -m mfa_train.launch.restart JOB STATUS      # as launch/slurm.sbatch ends with, where srun failed

It can where the run has a newer whole checkpoint than when it was started, and got to another step than the start that
crashed before; or, after a node of SLURM's that had no GPU (69), any checkpoint. Never started again: a mistake of the
config (2), something else wrong with a node (78), a run that was asked to stop. Preemptions and time limits, which
queue a job again with 75, are not counted.

What is counted lies in launch/restarts.json of the run's folder, and how a start crashed, as the first node to notice
says, in launch/crash-START.json. A new launch counts anew.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mfa_train.checkpoints.folders import newest_first, plausible, step_of
from mfa_train.errors import HUNG_STATUS, ConfigError, NoDevice, Stopped
from mfa_train.launch.job import Job, read_job
from mfa_train.launch.requeue import NodeError
from mfa_train.run_files import LAUNCH
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import as_json, last_records, read_object

FILE = "restarts.json"
FINAL = (0, ConfigError.exit_status, Stopped.exit_status, NodeError.exit_status, 130)
"""Statuses after which a run is not started again: ended well, mistakes, stopped, interrupted."""
UPDATE_SECONDS = 10
"""That SLURM has to say that a job is queued again, before the node to leave out can be told."""


class Restarts:
    """Those of the run in `run_dir`, at most `most` in this launch."""

    def __init__(self, run_dir: Path, most: int):
        self.run_dir, self.most = run_dir, most
        self.path = run_dir / LAUNCH / FILE

    def forget(self) -> None:
        """A new launch counts anew."""
        self.path.unlink(missing_ok=True)

    def begin(self) -> None:
        """Notes from which step a start, which is about to be made, goes on. A disk that takes no note stops none."""
        if self.most:
            try:
                self._write(self._read() | {"from_step": self._saved()})
            except OSError as error:
                _say(f"warning: {self.path} cannot be written ({error.strerror})")

    def again(self, why: str, without_node: bool = False) -> bool:
        """Whether the start, which crashed as `why` says, is followed by another; counts it. Prints one line that says
        so; none where cluster.max_restarts is 0. `without_node`: a node could not begin at all and another takes its
        place, which needs no progress of this start, but some of the run."""
        if not self.most:
            return False
        known, saved, reached = self._read(), self._saved(), self._reached()
        begun, done = known.get("from_step", 0), known.get("done", 0)
        refusal = f"cluster.max_restarts={self.most} were made" if done >= self.most else None
        if without_node and saved:
            reached = known.get("reached", -1)  # not this start's
        elif reached == known.get("reached"):
            refusal = f"it got to step {reached} as the start before did, so that another would most likely end there"
        elif saved <= begun:
            refusal = f"it got to step {reached} and saved nothing since step {begun}, from which it was started"
        if refusal:
            _say(f"{why}: not started again: {refusal}")
            return False
        try:
            self._write(known | {"done": done + 1, "reached": reached})
        except OSError as error:  # uncounted, it might be started for ever
            _say(f"{why}: not started again: {self.path} cannot be written ({error.strerror})")
            return False
        _say(f"{why}: started again from step {saved}, restart {done + 1} of {self.most}")
        return True

    def _saved(self) -> int:
        """Step of the newest whole checkpoint; 0 where there is none."""
        whole = (path for path in newest_first(self.run_dir / "checkpoints") if plausible(path))
        return next(map(step_of, whole), 0)

    def _reached(self) -> int:
        """The last step that is known to have ended."""
        metrics = self.run_dir / METRICS
        records = last_records(metrics, 1) if metrics.is_file() else []
        return max(self._saved(), records[-1]["step"] if records else 0)

    def _read(self) -> dict:
        known = read_object(self.path) if self.path.is_file() else None
        return {key: value for key, value in (known or {}).items() if type(value) is int}

    def _write(self, known: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{FILE}.partial")
        beside.write_text(as_json(known) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def note_crash(run_dir: Path, start: str, status: int, rank: int | None = None, everywhere: bool = False) -> None:
    """Leaves how `start` crashed, here or `everywhere` alike, as that of the start; nothing where another was faster or
    there is no room."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    try:
        with _crash_file(run_dir, start).open("x", encoding="utf-8") as file:
            json.dump({"node": node, "rank": rank, "status": status, "everywhere": everywhere}, file)
    except OSError:
        pass


def crash_of(run_dir: Path, start: str) -> dict:
    """`node`, `rank`, `status` and `everywhere` of the first to crash; empty where nobody could say."""
    path = _crash_file(run_dir, start)
    return (read_object(path) if path.is_file() else None) or {}


def words_of(crash: dict, status: int) -> str:
    """How it crashed, in a few words."""
    if "node" not in crash:
        return f"the run ended with status {status}"
    status = crash.get("status", status)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status == HUNG_STATUS:
        how = "found that no step ended (guard.hang_seconds)"
    if crash.get("everywhere"):
        return f"all ranks {how}"
    return f"rank {crash.get('rank')} on {crash['node']} {how}"


def _crash_file(run_dir: Path, start: str) -> Path:
    return run_dir / LAUNCH / f"crash-{start}.json"


def _say(line: str) -> None:
    print(f"=== {line}", flush=True)


def queue_again(job: Job, status: int) -> None:
    """Queues this SLURM job again where it crashed and another start can help; the node where it crashed is left out,
    where the partition has enough others."""
    slurm = os.environ
    number, member = slurm["SLURM_JOB_ID"], int(slurm.get("SLURM_ARRAY_TASK_ID", 0))
    start = f"{number}.{slurm.get('SLURM_RESTART_COUNT', 0)}"
    run_dir = Path(job.members[member]["run_dir"])
    crash, shown = crash_of(run_dir, start), _fields("job", number)
    final = crash["status"] in FINAL if "status" in crash else status in FINAL
    if final or shown.get("JobState") not in ("RUNNING", "COMPLETING"):  # CANCELLED: by a person
        return
    no_device = crash.get("status") == NoDevice.exit_status
    if not Restarts(run_dir, job.max_restarts).again(words_of(crash, status), without_node=no_device):
        return
    # Of a rank that stands still the others speak, on nodes that are as good as any; so are those of an error that all
    # ranks share.
    no_nodes_fault = crash.get("status") == HUNG_STATUS or crash.get("everywhere")
    excluded = None if no_nodes_fault else _excluding(job, crash.get("node"), shown)
    # Queued again, the job is sent SIGTERM, and SIGKILL half a minute (KillWait) later; of one that is not queued yet
    # SLURM takes no node to leave out.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.run(["scontrol", "requeue", number])
    deadline = time.monotonic() + UPDATE_SECONDS
    while excluded and time.monotonic() < deadline:
        told = subprocess.run(
            ["scontrol", "update", f"JobId={number}", f"ExcNodeList={excluded}"], capture_output=True, text=True
        )
        if not told.returncode:
            _say(f"without {excluded}: scontrol update JobId={number} ExcNodeList= takes it back")
            return
        time.sleep(0.2)
    if excluded:
        _say(f"{excluded} could not be left out: {' '.join(told.stderr.split())}")


def _excluding(job: Job, node: str | None, shown: dict[str, str]) -> str | None:
    """The job's list of nodes to leave out with `node` in it; None where the node is not known, or what is left would
    not be enough: the job would wait for ever."""
    usable = _lines("sinfo", "-h", "-N", "-p", shown.get("Partition", ""), "-t", "idle,alloc,mix,comp", "-o", "%N")
    before = shown.get("ExcNodeList", "(null)").replace("(null)", "")
    listed = _lines("scontrol", "show", "hostnames", before) if before else set()
    if node not in usable:
        return None
    left = usable - listed - {node}
    if len(left) < job.nodes:
        _say(
            f"{node} is not left out: of the partition's nodes {len(left)} others are usable, the job needs {job.nodes}"
        )
        return None
    return ",".join(filter(None, (before, node)))


def _fields(what: str, name: str) -> dict[str, str]:
    shown = subprocess.run(["scontrol", "show", what, name], capture_output=True, text=True).stdout
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def _lines(*command: str) -> set[str]:
    return set(subprocess.run(command, capture_output=True, text=True).stdout.split())


def main() -> int:
    """Ends with the status that it was given: the job's own."""
    status = int(sys.argv[2])
    try:
        queue_again(read_job(sys.argv[1]), status)
    except ConfigError as error:  # nodes that don't see the job have said so
        print(f"error: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
