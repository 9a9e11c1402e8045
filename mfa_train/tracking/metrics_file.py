"""metrics.jsonl: one JSON object a logged step, the interface between training and comparing.

Each step stands there once, however often a run was killed: what lies behind the step it resumes from is cut off, a
line torn by the kill too.
"""

import contextlib
import json
import os
from pathlib import Path

from mfa_train.tracking.terminal import say

FILE = "metrics.jsonl"
NEWLINE = b"\n"


class MetricsFile:
    """Appends records to those up to `from_step`, each visible as soon as it is written. `logged_to` is the last step
    ever logged, by this start or an earlier one.

    A disk that is full ends no run: `say` is told once, and records wait in memory until there is room.
    """

    def __init__(self, path: Path, from_step: int = 0, say=say):
        self.path, self.say, self.told = path, say, False
        self.waiting, self.unsynced = b"", bytearray()
        """What is yet to be written, and what was written since the disk last vouched for all before it."""
        self.logged_to = max((record["step"] for record in read_metrics(path)), default=0) if path.exists() else 0
        self.file = path.open("ab", buffering=0)
        self.cut(from_step)

    def log(self, record: dict) -> None:
        self.logged_to = max(self.logged_to, record["step"])
        self.waiting += json.dumps(record).encode() + b"\n"
        self._write()

    def cut(self, step: int) -> None:
        """Forgets what was logged behind `step`, also of what waits; needs no room on the disk."""
        written = self.path.read_bytes()
        kept = _up_to(written + self.waiting, step)  # of a line that found room in part, the rest waits
        if len(kept) < len(written):
            self.file.truncate(len(kept))
            del self.unsynced[max(0, len(self.unsynced) - len(written) + len(kept)) :]
        self.waiting = kept[len(written) :]

    def flush(self) -> None:
        """Waits until the disk has it all, so that no checkpoint is ahead of its records."""
        self._write()
        try:
            os.fsync(self.file.fileno())
            self.unsynced.clear()
        except OSError as error:  # a network file system finds here that it had no room: written anew, then
            self._tell(error)
            with contextlib.suppress(OSError):
                self.file.truncate(self.path.stat().st_size - len(self.unsynced))
                self.waiting = bytes(self.unsynced) + self.waiting
                self.unsynced.clear()

    def close(self) -> None:
        self.flush()
        with contextlib.suppress(OSError):  # flushed, or told
            self.file.close()
        if self.waiting:
            self.say(f"warning: {self.path} lacks the last {self.waiting.count(NEWLINE)} records: there was no room")

    def _write(self) -> None:
        try:
            while self.waiting:
                written = self.file.write(self.waiting)
                self.unsynced += self.waiting[:written]
                self.waiting = self.waiting[written:]
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self.told:
            self.say(f"warning: {self.path} cannot be written ({error.strerror}); its records wait in memory")
        self.told = True


def _up_to(lines: bytes, step: int) -> bytes:
    """Those that are whole and of steps up to `step`: they rise."""
    kept = 0
    for line in lines.splitlines(keepends=True):
        try:
            if not line.endswith(NEWLINE) or json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept += len(line)
    return lines[:kept]


def read_metrics(path: Path) -> list[dict]:
    """The records; a last line that a kill tore is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
