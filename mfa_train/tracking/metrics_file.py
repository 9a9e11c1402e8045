"""metrics.jsonl: one JSON object a logged step, the interface between training and comparing.

Each step stands there once, however often a run was killed: what lies behind the step it resumes from is cut off, a
line torn by the kill too, and the file is replaced in one rename.
"""

import json
import os
from pathlib import Path

FILE = "metrics.jsonl"


class MetricsFile:
    """Appends records to those up to `from_step`, each visible as soon as it is written. `logged_to` is the last step
    ever logged, by this start or an earlier one.

    On a full disk `say` is told once, and records wait in memory until there is room.
    """

    def __init__(self, path: Path, from_step: int = 0, say=print):
        self.path, self.say, self.waiting, self.told = path, say, b"", False
        self.logged_to = max((record["step"] for record in read_metrics(path)), default=0) if path.exists() else 0
        self.cut(from_step)

    def log(self, record: dict) -> None:
        self.logged_to = max(self.logged_to, record["step"])
        self.waiting += json.dumps(record).encode() + b"\n"
        self._write()

    def cut(self, step: int) -> None:
        """Forgets what was logged behind `step`."""
        records = [record for record in read_metrics(self.path) if record["step"] <= step] if self.path.exists() else []
        beside = self.path.with_name(f"{self.path.name}.partial")
        beside.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        os.replace(beside, self.path)
        self.file = self.path.open("ab", buffering=0)

    def flush(self) -> None:
        """Waits until the disk has it all, so that no checkpoint is ahead of its records."""
        self._write()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self._write()
        self.file.close()

    def _write(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[self.file.write(self.waiting) :]
        except OSError as error:
            if not self.told:
                self.say(f"warning: {self.path} cannot be written ({error.strerror}); its records wait in memory")
            self.told = True


def read_metrics(path: Path) -> list[dict]:
    """The records; a last line that a kill tore is left out."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
