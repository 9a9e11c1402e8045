"""`mfa-train status`: how the runs of a folder stand, from their files alone, whoever started them and wherever they
run.

A state is what the newest file says. A run that closed left its word in summary.json: finished, stopped or failed. One
that did not is running while its records come; on its own host the process itself is looked for. Otherwise it is
`silent`: killed, or on a step that takes unusually long.
"""

import json
import os
import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from mfa_train import config as configs
from mfa_train.errors import ConfigError
from mfa_train.launch.job import JOB
from mfa_train.launch.slurm import SUBMITTED
from mfa_train.run_files import LAUNCH, LOGS
from mfa_train.tracking.metrics_file import read_metrics

HEADER = ("run", "state", "step", "loss", "tokens/s", "ETA", "job")
SILENT_SECONDS = 300
"""Without a record; or ten times the usual time between two, where that is longer."""


@dataclass(frozen=True)
class Status:
    name: str
    state: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    seconds_left: float | None
    job: str


def statuses(runs_dir: Path) -> list[Status]:
    """Of each run in `runs_dir`, by name. Raises ConfigError where it is no folder or holds no run."""
    if not runs_dir.is_dir():
        raise ConfigError(f"{runs_dir}: no such folder; type the one that holds the runs, as runs")
    found = [_status(folder) for folder in sorted(runs_dir.iterdir())
             if (folder / "config.yaml").is_file() or (folder / LAUNCH).is_dir()]
    if not found:
        raise ConfigError(f"{runs_dir}: holds no run; type the folder above the runs, as runs")
    return found


def table(found: list[Status]) -> str:
    rows = [HEADER] + [(one.name, one.state, f"{one.step:,}/{one.steps:,}" if one.steps else "-",
                        "-" if one.loss is None else f"{one.loss:.4f}",
                        "-" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}",
                        "-" if one.seconds_left is None else _duration(one.seconds_left), one.job or "-")
                       for one in found]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) if number in (0, 1, 6) else cell.rjust(width)
                               for number, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows)


def _status(folder: Path) -> Status:
    metrics, submitted = folder / "metrics.jsonl", _read(folder / LAUNCH / SUBMITTED)
    if not (folder / "config.yaml").is_file():
        launched = submitted or {"at": _changed(folder / LAUNCH / JOB)}
        return Status(folder.name, _submitted_state(folder, launched), 0, 0, None, None, None, submitted.get("job", ""))
    try:
        config = configs.of_run(folder)
    except ConfigError:  # it is being written, or is no run's
        return Status(folder.name, "unreadable", 0, 0, None, None, None, submitted.get("job", ""))
    records = read_metrics(metrics) if metrics.is_file() else []
    state, last = _state(folder, records, submitted), records[-1] if records else {}
    steps, speed = config.training.total_steps, None
    if records:
        speed = statistics.median(record["tokens_per_second"] for record in records[-10:])
    left = None
    if speed and state == "running":
        left = (steps - last["step"]) * config.training.batch_size * config.training.sequence_length / speed
    return Status(folder.name, state, last.get("step", 0), steps, last.get("train/loss"), speed, left,
                  submitted.get("job", ""))


def _state(folder: Path, records: list[dict], submitted: dict) -> str:
    """finished | stopped | failed | running | silent, or queued where a job was submitted since."""
    alive = max(_changed(folder / name) for name in ("metrics.jsonl", "starts.jsonl", "config.yaml"))
    closed = _changed(folder / "summary.json")
    if submitted.get("at", 0) > max(alive, closed):
        return _submitted_state(folder, submitted)
    if closed >= alive:
        return _read(folder / "summary.json").get("status", "unreadable")
    holder = _read(folder / "run.lock")
    if holder.get("host") == socket.gethostname():
        return "running" if _lives(holder["pid"], folder) else "silent"
    apart = [later["seconds"] - earlier["seconds"] for earlier, later in zip(records, records[1:])]
    usual = statistics.median(apart[-10:]) if apart else 0
    return "running" if time.time() - alive < max(SILENT_SECONDS, 10 * usual) else "silent"


def _submitted_state(folder: Path, submitted: dict) -> str:
    """queued, or failed where the job ended before there was a run."""
    failed = max(map(_changed, (folder / LOGS).glob("failure-*.txt")), default=0.0)
    return "failed" if failed > submitted.get("at", 0) else "queued"


def _lives(pid: int, folder: Path) -> bool:
    """Whether process `pid` holds the lock of `folder`: not one that got its number later."""
    try:
        lock = (folder / "run.lock").stat()
        return any(os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), lock) for name in os.listdir(f"/proc/{pid}/fd")
                   if os.path.exists(f"/proc/{pid}/fd/{name}"))
    except OSError:
        return False


def _changed(path: Path) -> float:
    """When it was last written; 0 where it isn't there."""
    return path.stat().st_mtime if path.exists() else 0.0


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"
