"""metrics.jsonl: one JSON object a logged step, the interface between training and comparing.

Each step stands there once, however often a run was killed: what lies behind the step it resumes from is cut off, a
line torn by the kill too. What is damaged is set aside and costs itself alone (`records`, `survey`). A file is read
once when it is opened, in bounded memory, and from then on from its end.
"""

import contextlib
import os
from itertools import takewhile
from pathlib import Path

from mfa_train.archive import AnyPath
from mfa_train.tracking.records import NEWLINE, as_json, backwards, consistent_records, parsed, records, sound
from mfa_train.tracking.survey import Survey, set_aside
from mfa_train.tracking.terminal import say

FILE = "metrics.jsonl"


class MetricsFile:
    """Appends records to those up to `from_step`, each visible as soon as it is written. `logged_to` is the last step
    ever logged, by this start or an earlier one.

    A disk that is full ends no run: it is said once, and records wait in memory until there is room.
    """

    def __init__(self, path: Path, from_step: int = 0, say=say):
        self.path, self.say, self.warned = path, say, False
        self.waiting, self.unsynced = b"", bytearray()
        """What is yet to be written, and what was written since the disk last vouched for all before it."""
        self.logged_to = self._whole(from_step) if path.exists() else 0
        self.file = path.open("ab", buffering=0)
        self.cut(from_step)

    def _whole(self, from_step: int) -> int:
        """Sets aside what of the file is damaged; gives the last step of what stays."""
        found = Survey(self.path, from_step)
        if found.damaged:
            set_aside(self.path, found.damaged, f"the other {len(found.kept)} records stay", self.say)
        return found.last

    def log(self, record: dict) -> None:
        """Appends it; readers see it at once."""
        self.logged_to = max(self.logged_to, record["step"])
        self.waiting += as_json(record).encode() + NEWLINE
        self._write()

    def cut(self, step: int) -> None:
        """Forgets what was logged behind `step`, also of what waits; needs no room on the disk."""
        begun = _begun(self.path)  # of a line that found room in part, the rest waits
        waiting = list(takewhile(lambda line: _is_up_to(line, step), (begun + self.waiting).splitlines(keepends=True)))
        if waiting:
            self.waiting = b"".join(waiting)[len(begun) :] + NEWLINE * (not waiting[-1].endswith(NEWLINE))
            return
        written, kept = self.path.stat().st_size, _up_to(self.path, step) if step else 0
        self.file.truncate(kept)
        del self.unsynced[max(0, len(self.unsynced) - written + kept) :]
        self.waiting = NEWLINE if _begun(self.path) else b""

    def flush(self) -> None:
        """Waits until the disk has it all, so that no checkpoint is ahead of its records."""
        self._write()
        try:
            os.fsync(self.file.fileno())
            self.unsynced.clear()
        except OSError as error:  # a network file system finds here that it had no room: written anew, then
            self._warn(error)
            with contextlib.suppress(OSError):
                self.file.truncate(self.path.stat().st_size - len(self.unsynced))
                self.waiting = bytes(self.unsynced) + self.waiting
                self.unsynced.clear()

    def close(self) -> None:
        """Waits for the disk, and says how many records found no room."""
        self.flush()
        with contextlib.suppress(OSError):  # flushed, or warned of
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
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self.warned:
            self.say(f"warning: {self.path} cannot be written ({error.strerror}); its records wait in memory")
        self.warned = True


def _up_to(path: Path, step: int) -> int:
    """How many bytes the records up to `step` take: looked for from the end."""
    with path.open("rb") as file:
        for start, line in backwards(file):
            for _, end, record in reversed(list(sound(line))):
                if record and record["step"] <= step:
                    return start + end
    return 0


def _is_up_to(line: bytes, step: int) -> bool:
    record = parsed(line)
    return record is not None and record["step"] <= step


def _begun(path: Path) -> bytes:
    """The beginning of a last line of which not all found room; empty where the file ends with a whole line."""
    with path.open("rb") as file:
        _, last = next(backwards(file), (0, b""))
    return b"" if last.endswith(NEWLINE) else last


def read_metrics(path: AnyPath) -> list[dict]:
    """The sound records of a metrics.jsonl, in order."""
    return consistent_records(list(records(path)))
