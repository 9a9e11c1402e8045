"""starts.jsonl: one line each time a run was started, so that a run and its cluster jobs are found from each other.

A line holds when and where it was started, as which cluster job, from which step, what had changed in the config, and
the W&B run. W&B's config holds the same lines; the job's output holds W&B's address.
"""

import functools
import json
import os
import platform
import socket
import time
from importlib.metadata import version
from pathlib import Path

from mfa_train.tracking.records import lines, parsed
from mfa_train.tracking.terminal import say

FILE = "starts.jsonl"
JOB_KEYS = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_CLUSTER_NAME",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_RESTART_COUNT",
    "PBS_JOBID",
    "LSB_JOBID",
    "JOB_ID",
    "TORCHELASTIC_RUN_ID",
)


def starts(folder: Path) -> list[dict]:
    """The starts of the run in `folder` so far, the earliest first; lines that are damaged or torn are passed over."""
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return [start for _, _, line in lines(file) if (start := parsed(line)) is not None]


def this_start(from_step: int, changed: list[str], world_size: int) -> dict:
    """What is written down of the start of this process; `changed` are the config keys that differ from the last's."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job": {key: os.environ[key] for key in JOB_KEYS if key in os.environ},
        "world_size": world_size,
        "from_step": from_step,
        "changed": changed,
        "versions": versions(),
    }


def add_start(folder: Path, start: dict) -> None:
    """Writes down a start of the run in `folder`; where there is no room, says so."""
    try:
        with (folder / FILE).open("ab+") as file:
            torn = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(torn) + json.dumps(start).encode() + b"\n")
    except OSError as error:
        say(f"warning: {folder / FILE} cannot be written ({error.strerror})")


@functools.cache
def versions() -> dict[str, str]:
    """Of Python and the packages that a run's numbers depend on."""
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "deepspeed", "numpy", "safetensors", "sentencepiece", "wandb")
    }
