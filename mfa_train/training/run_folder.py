"""What a run leaves behind: runs_dir/NAME with config.yaml, plan.json, metrics.jsonl, summary.json, starts.jsonl,
checkpoints/, wandb/.

The folder is a pure function of the run's name, so all ranks and all restarts share one. Files appear whole.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

from mfa_train import config as configs
from mfa_train.config import Config
from mfa_train.errors import ConfigError
from mfa_train.run_files import LAUNCH, LOGS
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.metrics_file import read_metrics
from mfa_train.tracking.starts import starts
from mfa_train.tracking.terminal import say
from mfa_train.training.checkpoint import clear_partial
from mfa_train.training.resume import StartingPoint, changes
from mfa_train.training.run_lock import FILE as LOCK_FILE
from mfa_train.training.run_lock import RunLock


def final_checkpoint(run: Path) -> Path:
    """The folder of a run's final weights and tokenizer."""
    return run / "checkpoints" / "final"


class RunFolder:
    """Nothing stays behind in the folder before `create`."""

    def __init__(self, config: Config):
        self.config = config
        self.path = config.run_dir
        self.lock = RunLock(self.path)

    def open(self) -> dict | None:
        """The summary of the same run, finished before; None where there is nothing yet, or something left to train.

        Raises ConfigError where the folder holds another run, is in use or cannot be written.
        """
        _require_writable(self.path, f"runs_dir={self.config.runs_dir}")
        if self._is_empty():
            return None
        mend = "type name=… for a run beside it, or resume=never to move it aside and train anew"
        if not (self.path / "config.yaml").is_file() and self.config.resume != "never":
            raise ConfigError(f"name={self.config.name}: {self.path} holds files that are no run; {mend}")
        if self.config.resume == "never":
            self.lock.take()
            return None
        old = configs.of_run(self.path)
        refused, accepted = changes(dataclasses.asdict(old), self.config)
        finished = self._finished_summary()
        if finished and self.config.training.total_steps <= old.training.total_steps:
            refused += accepted  # there is nothing left to train with them
        if refused:
            raise ConfigError(f"name={self.config.name}: {self.path} holds another run ({'; '.join(refused[:3])}"
                              f"{', …' if len(refused) > 3 else ''}); {mend}")
        if finished and not accepted:
            return finished
        self.lock.take()
        return None

    def create(self, plan: dict, start: StartingPoint | None) -> int:
        """Makes the folder, or makes it ready to go on from `start`; gives how many times the run was started before.

        An older run of this name is moved aside to NAME~1, NAME~2, … with resume=never; an unfinished one without a
        checkpoint starts again in its place. Raises ConfigError where another process was faster.
        """
        try:
            return self._create(plan, start)
        except OSError as error:
            raise ConfigError(f"runs_dir={self.config.runs_dir}: {self.path} cannot be written ({error.strerror}); type "
                              "runs_dir=FOLDER with room") from error

    def _create(self, plan: dict, start: StartingPoint | None) -> int:
        if self.config.resume == "never":
            self.move_aside()
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.take()
        clear_partial(self.checkpoints)
        (self.path / "summary.json").unlink(missing_ok=True)  # of an earlier end, which a longer run is no longer at
        for damaged in start.damaged if start else ():
            if damaged.parent == self.checkpoints:
                shutil.rmtree(aside := damaged.with_name(f"{damaged.name}.damaged"), ignore_errors=True)
                damaged.rename(aside)
        if start and start.checkpoint.parent != self.checkpoints:
            self._take_over(start)
        self._write("config.yaml", configs.to_yaml(self.config))
        self.write_json("plan.json", plan)
        return len(starts(self.path))

    def _take_over(self, start: StartingPoint) -> None:
        """The metrics of the run that this one branches off, up to there: what was trained is one curve."""
        theirs = start.checkpoint.parent.parent / METRICS
        if theirs.is_file():
            records = [record for record in read_metrics(theirs) if record["step"] <= start.content["step"]]
            self._write(METRICS, "".join(json.dumps(record) + "\n" for record in records))

    def move_aside(self) -> None:
        """Makes room: what is in the folder goes to NAME~1, NAME~2, …, and its lock is released."""
        if not self._is_empty():
            number = 1
            while (aside := self.path.with_name(f"{self.path.name}~{number}")).exists():
                number += 1
            self.path.rename(aside)
            self.lock.release()

    def close(self, summary: dict) -> None:
        """Leaves summary.json; without room for it, says so."""
        try:
            self.write_json("summary.json", summary)
        except OSError as error:
            say(f"warning: {self.path / 'summary.json'} cannot be written ({error.strerror})")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _is_empty(self) -> bool:
        """Whether there is nothing of a run yet; what a launch, or a kill while it was being created, leaves is nothing."""
        nothing = {LOCK_FILE, "config.yaml.partial", LAUNCH, LOGS}
        return not self.path.exists() or {path.name for path in self.path.iterdir()} <= nothing

    def _finished_summary(self) -> dict | None:
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # an unfinished run has none
            return None
        return summary if summary["status"] == "finished" else None

    def _write(self, name: str, text: str) -> None:
        beside = self.path / f"{name}.partial"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path / name)

    def write_json(self, name: str, value: dict) -> None:
        self._write(name, json.dumps(value, indent=2) + "\n")


def _require_writable(path: Path, key: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        if not any(path.iterdir()):
            path.rmdir()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be written ({error.strerror}); type runs_dir=FOLDER with one that can") from None
