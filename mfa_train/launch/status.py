"""`mfa-train status`: how the runs of a folder stand, from their files alone, whoever started them and wherever they
run.

A state is what the newest file says. A run that closed left its word in summary.json: finished, stopped or failed. One
that did not is running while its records come; on its own host the process itself is looked for. Otherwise it is
`silent`: killed, or on a step that takes unusually long. In an archive (`mfa-train pack`) nothing runs:
what had not closed when it was packed is `silent`.
"""

import itertools
import os
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from mfa_train.archive import AnyPath, Archived, Damaged, opened
from mfa_train.budget.units import duration
from mfa_train.columns import in_columns
from mfa_train.errors import ConfigError
from mfa_train.launch.job import JOB
from mfa_train.launch.slurm import SUBMITTED
from mfa_train.run_files import LAUNCH, LOGS
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import last_records, number, read_object
from mfa_train.words import printable

HEADER = ("run", "state", "step", "loss", "tokens/s", "ETA", "job")
WORDS = (0, 1, 6)
"""Columns that are no numbers."""
SILENT_SECONDS = 300
"""Without a record; or ten times the usual time between two, where that is longer."""
LARGEST = 2**20
"""Bytes of a config.yaml: far more than one has."""
LONGEST_WAIT = 10**10
"""Seconds; a larger number tells nothing."""
WIDEST = 60
"""Columns of a name."""
STATES = ("finished", "stopped", "failed")
"""Of summary.json."""
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Status:
    name: str
    state: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    job: str = ""
    why: str = ""
    """What is wrong with an unreadable one."""


def statuses(runs_dir: Path) -> list[Status]:
    """Of each run in the folder or archive `runs_dir`, by name. Raises ConfigError where it is neither or holds no run,
    DataError for an archive that is none."""
    try:
        folders = [folder for place in opened(runs_dir) for folder in _folders(place)]
    except NotADirectoryError:
        raise ConfigError(f"{runs_dir}: is a file; type the folder that holds the runs, as runs") from None
    except FileNotFoundError:
        raise ConfigError(f"{runs_dir}: no such folder; type the one that holds the runs, as runs") from None
    except OSError as error:
        raise ConfigError(
            f"{runs_dir}: cannot be read ({error.strerror}); type the folder that holds the runs"
        ) from None
    found = [status for folder in folders if (status := _status(folder))]
    if not found:
        raise ConfigError(f"{runs_dir}: holds no run; type the folder above the runs, as runs")
    return found


def table(found: list[Status]) -> str:
    rows = [HEADER] + [
        (
            printable(one.name),
            one.state,
            f"{one.step:,}/{one.steps:,}" if one.steps else "-",
            "-" if one.loss is None else f"{one.loss:.4f}" if abs(one.loss) < 1e6 else f"{one.loss:.3g}",
            "-" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}",
            duration(one.seconds_left),
            printable(one.job) or "-",
        )
        for one in found
    ]
    lines = in_columns(rows, WORDS, WIDEST)
    return "\n".join(lines + [f"{printable(one.name)}: {printable(one.why)}" for one in found if one.why])


def state_of(folder: Path) -> str:
    """The state of the run in `folder`, as `status` tells it. Raises OSError."""
    return _state(folder, _read(folder / LAUNCH / SUBMITTED))


def _folders(place: AnyPath) -> list[AnyPath]:
    """What may hold a run, by name: the folders in it; of an archive also the run that was named. Raises OSError."""
    if isinstance(place, Archived):
        return [place] if (place / "config.yaml").is_file() else [one for one in place.iterdir() if one.is_dir()]
    with os.scandir(place) as entries:
        return [place / name for name in sorted(entry.name for entry in entries if _may_hold_a_run(entry))]


def _may_hold_a_run(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _status(folder: AnyPath) -> Status | None:
    """None where no run was ever begun; whatever is odd in one folder costs that one alone."""
    job = ""
    try:
        trains = (folder / "config.yaml").is_file()
        if isinstance(folder, Archived):
            return _of_run(folder, _archived_state(folder)) if trains else None
        if not (trains or (folder / LAUNCH).is_dir()):
            return None
        submitted = _read(folder / LAUNCH / SUBMITTED)
        job = named if isinstance(named := submitted.get("job"), str) else ""
        if not trains:
            at = _at(submitted) if submitted else _changed(folder / LAUNCH / JOB)
            return Status(folder.name, _submitted_state(folder, at), job=job)
        return _of_run(folder, _state(folder, submitted), job)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # it is being written, or is no run's
        return Status(folder.name, "unreadable", job=job, why=_line(error))


def _line(error: Exception) -> str:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        said
        if said.startswith("config.yaml") or isinstance(error, Damaged)
        else f"config.yaml is no run's ({said[:200]}); correct it, or rename the folder"
    )


def _of_run(folder: AnyPath, state: str, job: str = "") -> Status:
    """The status of a run that was begun. Raises ValueError, OSError and YAML's own errors."""
    steps, tokens_per_step = _training(folder / "config.yaml")
    records = _last_records(folder)
    last = records[-1] if records else {}
    speeds = [speed for record in records[-10:] if (speed := number(record.get("tokens_per_second"))) and speed > 0]
    speed = statistics.median(speeds) if speeds else None
    left = max(0, steps - last["step"]) * tokens_per_step / speed if speed and state == "running" else None
    left = None if left is not None and left > LONGEST_WAIT else left
    why = "summary.json is damaged; the run's command goes on from its newest checkpoint and writes it anew"
    why = why if state == "unreadable" else ""
    return Status(folder.name, state, last.get("step", 0), steps, number(last.get("train/loss")), speed, left, job, why)


def _last_records(folder: AnyPath) -> list[dict]:
    metrics = folder / METRICS
    return last_records(metrics, 11) if metrics.is_file() else []


def _training(path: AnyPath) -> tuple[int, int]:
    """Steps of the run, and tokens of a step: of its config.yaml only these are read. Raises ValueError and YAML's own
    errors."""
    with path.open("rb") as file:
        text = file.read(LARGEST)
    part = b"".join(_part(text.splitlines(keepends=True), b"training:"))  # a tenth of the time
    tree = yaml.load(part or text, Loader)
    training = tree.get("training") if isinstance(tree, dict) else None
    training = training if isinstance(training, dict) else {}
    whole = {key: value for key, value in training.items() if _whole(value)}
    steps, tokens = whole.get("steps", 0), whole.get("tokens", 0)
    per_step = whole.get("batch_size", 0) * whole.get("sequence_length", 0)
    if not steps and per_step:
        steps = -(-tokens // per_step)
    if not (steps and per_step):
        raise ValueError(
            "config.yaml is no run's: it does not say training.steps, training.batch_size and "
            "training.sequence_length; correct it, or rename the folder"
        )
    return steps, per_step


def _part(lines: list[bytes], begin: bytes) -> Iterator[bytes]:
    """The lines of a key of the first level."""
    inside = False
    for line in lines:
        inside = line.startswith(begin) if line[:1].strip() else inside
        if inside:
            yield line


def _whole(value: object) -> bool:
    return type(value) is int and 0 < value < 2**63


def _archived_state(folder: Archived) -> str:
    """finished | stopped | failed | silent | unreadable."""
    summary = folder / "summary.json"
    ended = _read(summary).get("status")
    return ended if ended in STATES else "unreadable" if summary.is_file() else "silent"


def _state(folder: Path, submitted: dict) -> str:
    """finished | stopped | failed | running | silent | unreadable, or queued where a job was submitted since."""
    alive = max(_changed(folder / name) for name in (METRICS, "starts.jsonl", "config.yaml"))
    closed = _changed(folder / "summary.json")
    if _at(submitted) > max(alive, closed):
        return _submitted_state(folder, _at(submitted))
    ended = _read(folder / "summary.json").get("status")
    if ended in STATES:  # a run that goes on has removed it; times change when a folder is copied
        return ended
    if closed >= alive:
        return "unreadable"
    holder = _read(folder / "run.lock")
    if holder.get("host") == socket.gethostname():
        return "running" if _lives(holder.get("pid"), folder) else "silent"
    seconds = [at for record in _last_records(folder) if (at := number(record.get("seconds"))) is not None]
    usual = statistics.median([later - earlier for earlier, later in itertools.pairwise(seconds)] or [0])
    # A clock of another machine may be ahead; what is written far in the future tells nothing.
    return "running" if abs(time.time() - alive) < max(SILENT_SECONDS, 10 * usual) else "silent"


def _at(submitted: dict) -> float:
    return number(submitted.get("at")) or 0.0


def _submitted_state(folder: Path, at: float) -> str:
    """queued, or failed where the job ended before there was a run."""
    failed = max(map(_changed, (folder / LOGS).glob("failure-*.txt")), default=0.0)
    return "failed" if failed > at else "queued"


def _lives(pid: object, folder: Path) -> bool:
    """Whether process `pid` holds the lock of `folder`: not one that got its number later."""
    if not _whole(pid):
        return False
    try:
        lock = (folder / "run.lock").stat()
        return any(
            os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), lock)
            for name in os.listdir(f"/proc/{pid}/fd")
            if os.path.exists(f"/proc/{pid}/fd/{name}")
        )
    except OSError:
        return False


def _changed(path: Path) -> float:
    """When it was last written; 0 where it isn't there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: AnyPath) -> dict:
    """A JSON object; empty where it is none, or isn't there."""
    return read_object(path) or {} if path.is_file() else {}
