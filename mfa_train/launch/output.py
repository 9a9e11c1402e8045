"""Where a rank's words go: logs/rank-00003.log of the run's folder, and, of rank 0, the terminal too.

Of a start that fails, the first rank to fail shows the end of its log on the terminal, whichever rank it is, and no
other does: those that fail after it mostly tell of the connection they lost. That the first is first rests on one file
that only one process can create. A rank that was killed can't; its node does it in its place (`launch.node`), for which
those that lost a connection wait a moment.

What it gives up: what C libraries of rank 0 print goes to its log alone, and its progress bar to the terminal alone.
"""

import contextlib
import io
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from mfa_train.run_files import LOGS

LOST_CONNECTION = re.compile(
    "(reset|closed) by peer|broken pipe|likely closed|recv, got 0 bytes|remote process exited|ncclRemoteError"
    "|communicator was aborted",
    re.IGNORECASE,
)
"""What gloo, NCCL and torch's store say to the others of a rank that has gone."""
MOMENT = 1.0
"""Seconds that its node, which looks 20 times a second, has to say so first."""
LINES = 40
"""Of a log that are shown; a traceback is shown whole."""


def log_of(run_dir: Path, rank: int) -> Path:
    """The file that all starts of a run write to, one behind the other."""
    return run_dir / LOGS / f"rank-{rank:05}.log"


class RankOutput:
    """Makes standard output and error of this process the log of `rank`, from now on; `start` names this start."""

    def __init__(self, run_dir: Path, rank: int, start: str):
        self.run_dir, self.rank, self.start = run_dir, rank, start
        self.terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
        path = log_of(run_dir, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        output = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.begin = os.fstat(log).st_size
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(line_buffering=True, encoding="utf-8", errors="replace")
        print(
            f"=== {time.strftime('%Y-%m-%dT%H:%M:%S%z')} start {start}, rank {rank} on {socket.gethostname()}, "
            f"process {os.getpid()}",
            flush=True,
        )
        if rank == 0:
            sys.stdout, sys.stderr = Both(output, sys.stdout), Both(self.terminal, sys.stderr)

    def lost(self, error: Exception) -> None:
        """Where `error` tells of a lost connection: waits until another failure of this start is told, not for long."""
        deadline = time.monotonic() + MOMENT
        while LOST_CONNECTION.search(str(error)) and time.monotonic() < deadline:
            if failure_file(self.run_dir, self.start).exists():
                return
            time.sleep(0.02)

    def failed(self, shown: bool = False) -> None:
        """This rank has failed: what its log ends with goes to the terminal, where no rank was faster, unless it has
        been `shown` there already."""
        show_failure(self.run_dir, self.start, self.rank, self.begin, None if shown else self.terminal)


class Both:
    """A text stream to the terminal and to the log. Where one of them has gone or is full, the other has it alone. A
    progress bar, which overwrites its line, is not logged."""

    def __init__(self, terminal: TextIO, log: TextIO):
        self.terminal, self.log = terminal, log
        self.isatty, self.fileno, self.encoding = terminal.isatty, terminal.fileno, terminal.encoding

    def write(self, text: str) -> int:
        for stream in (self.terminal, self.log):
            if stream is self.terminal or not text.startswith("\r"):
                with contextlib.suppress(OSError):
                    stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in (self.terminal, self.log):
            with contextlib.suppress(OSError):
                stream.flush()


def failure_file(run_dir: Path, start: str) -> Path:
    """Exists as soon as a rank of this start has failed; holds what was shown."""
    return run_dir / LOGS / f"failure-{start}.txt"


def first_to_fail(run_dir: Path, start: str) -> int | None:
    """The rank that `failure_file` is about; None where there is none yet."""
    try:
        words = failure_file(run_dir, start).read_text(encoding="utf-8").split(maxsplit=2)
        return int(words[1])
    except (OSError, ValueError, IndexError):
        return None


def note_failure(run_dir: Path, start: str, message: str) -> bool:
    """Leaves `message` as the failure of this start; False where another was faster, or no file can be made."""
    try:
        with failure_file(run_dir, start).open("x", encoding="utf-8") as file:
            file.write(message)
        return True
    except OSError:
        return False


def show_failure(run_dir: Path, start: str, rank: int, begin: int, terminal: TextIO | None, how: str = "") -> None:
    """Shows on `terminal`, where there is one, what the log of `rank` ends with from byte `begin` on, and `how` it
    failed; nothing where another failure of `start` was shown."""
    if not note_failure(run_dir, start, ""):
        return
    log = log_of(run_dir, rank)
    try:
        ending = _ending(log.read_bytes()[begin:].decode(errors="replace"))
    except OSError:
        ending = ""
    message = f"rank {rank} on {socket.gethostname()} failed{how and f' ({how})'}; its log is {log}:\n\n{ending}\n"
    failure_file(run_dir, start).write_text(message, encoding="utf-8")
    if terminal:
        print(f"\n{message}", file=terminal, flush=True)


def _ending(log: str) -> str:
    """The last words of a start: its last traceback or error where that is long, else the last lines."""
    lines = log.rstrip().splitlines()[1:]  # without the line that says whose start it is
    traced = [number for number, line in enumerate(lines) if line.startswith(("Traceback ", "rank ", "error: "))]
    return "\n".join(lines[traced[-1] :] if traced and len(lines) - traced[-1] > LINES else lines[-LINES:])
