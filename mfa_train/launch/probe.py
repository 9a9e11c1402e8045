"""What a host tells of itself before ranks are started there; `hosts` asks it over ssh.

ssh HOST 'cd FOLDER && python -m mfa_train.launch.probe' < question.json > answer.json
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mfa_train.errors import ConfigError
from mfa_train.launch.ports import require_free
from mfa_train.tracking.starts import versions

FREE_PORTS = range(29500, 29600)


@dataclass(frozen=True)
class Question:
    job: str
    """Job.word of the run; ranks of it that an earlier launch left here are ended."""
    token: str
    """A file that was made for this question where the job is launched."""
    data: str | None
    """The manifest of the corpus; None where it isn't a folder."""
    environment: str | None
    """cluster.environment."""
    port: int | None
    first: bool
    """Whether the ranks meet here."""
    gpus: bool
    """Whether to count them, which takes seconds."""


@dataclass(frozen=True)
class Answer:
    versions: dict[str, str]
    ended: int
    """Processes of an earlier launch."""
    sees_token: bool
    sees_data: bool
    sees_environment: bool
    gpus: int
    port: int | None
    """A free one where the ranks meet; None elsewhere, and where the one asked for is in use."""
    time: float
    machine: str
    """Tells it from every other, whatever name it is called by."""


def answer(question: Question) -> Answer:
    ended, gpus = end_ranks(question.job), 0
    if question.gpus:
        import torch

        gpus = torch.cuda.device_count()
    sees_data = question.data is None or Path(question.data).is_file()
    sees_environment = question.environment is None or os.access(question.environment, os.R_OK)
    machine = f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return Answer(
        versions(),
        ended,
        Path(question.token).is_file(),
        sees_data,
        sees_environment,
        gpus,
        _port(question),
        time.time(),
        machine,
    )


def end_ranks(job: str, launchers: bool = False) -> int:
    """Kills the ranks of `job` on this machine, with `launchers` DeepSpeed's launcher of them too; how many there
    were."""
    ended = 0
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit():
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if (
                    "mfa_train.launch.rank" in words
                    and job in words
                    and (launchers or "deepspeed.launcher.launch" not in words)
                ):
                    os.kill(int(process.name), signal.SIGKILL)
                    ended += 1
    return ended


def _port(question: Question) -> int | None:
    for port in ([question.port] if question.port else FREE_PORTS) if question.first else ():
        with contextlib.suppress(ConfigError):
            require_free(port)
            return port
    return None


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(
        json.dumps(
            {"ended": end_ranks(asked["end"], asked["launchers"])}
            if "end" in asked
            else asdict(answer(Question(**asked)))
        )
    )
