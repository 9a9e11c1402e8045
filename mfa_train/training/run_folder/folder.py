"""What a run leaves behind: runs_dir/NAME with config.yaml, plan.json, metrics.jsonl, summary.json, starts.jsonl,
checkpoints/, wandb/.

The folder is a pure function of the run's name, so all ranks and all restarts share one. Files appear whole.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mfa_train import config as configs
from mfa_train.checkpoints.folders import clear_partial, newest_first
from mfa_train.checkpoints.tokenizer import keep_tokenizer
from mfa_train.checkpoints.weights import final_checkpoint
from mfa_train.config import Config
from mfa_train.data.tokenizer import Tokenizer
from mfa_train.errors import ConfigError
from mfa_train.run_files import LAUNCH, LOGS
from mfa_train.tracking.metrics_file import FILE as METRICS
from mfa_train.tracking.records import as_json, read_object
from mfa_train.tracking.starts import FILE as STARTS
from mfa_train.tracking.starts import starts
from mfa_train.tracking.survey import Survey, damaged_lines, set_aside
from mfa_train.tracking.terminal import say
from mfa_train.training.resuming.changes import changes
from mfa_train.training.resuming.resume_point import ResumePoint
from mfa_train.training.run_folder.lock import FILE as LOCK_FILE
from mfa_train.training.run_folder.lock import RunLock

SUMMARY = "summary.json"
ENDS = ("finished", "stopped", "failed")
FILES = ("config.yaml", "plan.json", METRICS, SUMMARY, STARTS)


class RunFolder:
    """The folder of a run: opened, created or gone on with, closed. Nothing stays behind in it before `create`."""

    def __init__(self, config: Config):
        self.config = config
        self.path = config.run_dir
        self.lock = RunLock(self.path)

    def open(self) -> dict | None:
        """The summary of the same run, finished before; None where there is nothing yet, or something left to train.

        Raises ConfigError where the folder holds another run, is in use or cannot be written.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise ConfigError(
                f"name={self.config.name}: {self.path} is no folder; type name=… for a run beside it, or move it"
            )
        _require_writable(self.path, f"runs_dir={self.config.runs_dir}")
        if self._is_empty():
            return None
        mend = "type name=… for a run beside it, or resume=never to move it aside and train anew"
        if not (self.path / "config.yaml").is_file() and self.config.resume != "never":
            raise ConfigError(f"name={self.config.name}: {self.path} holds files that are no run; {mend}")
        if self.config.resume == "never":
            self.lock.take()
            return None
        self._require_kinds(mend)
        old = configs.of_run(self.path)
        refused, accepted = changes(dataclasses.asdict(old), self.config)
        finished = self._finished_summary()
        if finished and self.config.training.total_steps <= old.training.total_steps:
            refused += accepted  # there is nothing left to train with them
        if refused:
            raise ConfigError(
                f"name={self.config.name}: {self.path} holds another run ({'; '.join(refused[:3])}"
                f"{', …' if len(refused) > 3 else ''}); {mend}"
            )
        if finished and not accepted:
            return finished
        if final_checkpoint(self.path).is_dir() and not newest_first(self.checkpoints):
            what = "is finished" if finished else "has final weights but no summary.json that says so"
            raise ConfigError(
                f"name={self.config.name}: {self.path} {what}, and there is no checkpoint to go on from; {mend}"
            )
        self.lock.take()
        return None

    def create(self, plan: dict, point: ResumePoint | None, tokenizer: Tokenizer | None = None) -> int:
        """Makes the folder, or makes it ready to go on from `point`; gives how many times the run was started before.

        An older run of this name is moved aside to NAME~1, NAME~2, … with resume=never; an unfinished one without a
        checkpoint starts again in its place. The `tokenizer` stays beside the checkpoints. Raises ConfigError where
        another process was faster.
        """
        try:
            return self._create(plan, point, tokenizer)
        except OSError as error:
            raise ConfigError(
                f"runs_dir={self.config.runs_dir}: {self.path} cannot be written ({error.strerror}); type "
                "runs_dir=FOLDER with room"
            ) from error

    def _create(self, plan: dict, point: ResumePoint | None, tokenizer: Tokenizer | None) -> int:
        if self.config.resume == "never":
            self.move_aside()
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock.take()
        clear_partial(self.checkpoints)
        with contextlib.ExitStack() as files:  # all that needs room first; the last one appears first
            files.enter_context(self._written("plan.json", [_lines(plan)]))
            if point and point.checkpoint.parent != self.checkpoints:
                files.enter_context(self._written(METRICS, self._taken_over(point)))
            files.enter_context(self._written("config.yaml", [configs.to_yaml(self.config)]))
            self._clear_summary()
            for damaged in point.damaged if point else ():
                if damaged.parent == self.checkpoints:
                    shutil.rmtree(aside := damaged.with_name(f"{damaged.name}.damaged"), ignore_errors=True)
                    damaged.rename(aside)
        if tokenizer:  # last: a folder without config.yaml but with checkpoints/ would be no run
            keep_tokenizer(tokenizer, self.checkpoints)
        return self._earlier_starts()

    def _clear_summary(self) -> None:
        """Removes the summary of an earlier end, which a longer run is no longer at."""
        path = self.path / SUMMARY
        if path.is_file() and (read_object(path) or {}).get("status") not in ENDS:
            os.replace(path, aside := path.with_name(f"{SUMMARY}.damaged"))
            say(f"warning: {path} is damaged: set aside as {aside.name}; the run writes it anew when it ends")
        path.unlink(missing_ok=True)

    def _earlier_starts(self) -> int:
        """How many times the run was started; lines of starts.jsonl that are damaged are set aside and count."""
        path = self.path / STARTS
        if path.is_file() and (damaged := damaged_lines(path)):
            set_aside(path, damaged, "the other starts stay", say)
        beside = path.with_name(f"{STARTS}.damaged")
        return len(starts(self.path)) + (len(damaged_lines(beside)) if beside.is_file() else 0)

    def _taken_over(self, point: ResumePoint) -> Iterable[bytes]:
        """The metrics of the run that this one branches off, up to there: what was trained is one curve."""
        theirs = point.checkpoint.parent.parent / METRICS
        if not theirs.is_file():
            return ()
        survey = Survey(theirs)
        if survey.damaged:
            say(f"warning: {theirs}: {len(survey.damaged)} damaged places, which this run's curve begins without")
        return survey.copied(point.step)

    def move_aside(self) -> None:
        """Makes room: what is in the folder goes to NAME~1, NAME~2, …, and its lock is released. Raises ConfigError."""
        if self._is_empty():
            return
        number = 1
        while os.path.lexists(aside := f"{self.path}~{number}"):
            number += 1
        try:
            self.path.rename(aside)
        except OSError as error:
            raise ConfigError(
                f"resume=never: {self.path} cannot be moved to {aside} ({error.strerror}); type name=… for "
                "a run beside it, or move it yourself"
            ) from error
        self.lock.release()

    def close(self, summary: dict) -> None:
        """Leaves summary.json; without room for it, says so."""
        try:
            self.write_json(SUMMARY, summary)
        except OSError as error:
            say(f"warning: {self.path / SUMMARY} cannot be written ({error.strerror})")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _is_empty(self) -> bool:
        """Whether there is nothing of a run yet; what a launch, or a kill while it was being created, leaves is
        nothing."""
        nothing = {LOCK_FILE, LAUNCH, LOGS, *(f"{name}.partial" for name in FILES)}
        return not self.path.exists() or {path.name for path in self.path.iterdir()} <= nothing

    def _require_kinds(self, mend: str) -> None:
        """Raises ConfigError where something else stands in a run file's place."""
        for path in (self.path / name for name in FILES):
            if os.path.lexists(path) and not path.is_file():
                raise ConfigError(f"name={self.config.name}: {path} is no file; {mend}")
            if path.exists() and not os.access(path, os.R_OK | (os.W_OK if path.name == METRICS else 0)):
                raise ConfigError(f"name={self.config.name}: {path} may not be read, or not be written to: {mend}")
        if os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir():
            raise ConfigError(f"name={self.config.name}: {self.checkpoints} is no folder; {mend}")

    def _finished_summary(self) -> dict | None:
        """summary.json of a run that is finished; None where it isn't, or the file is damaged."""
        path = self.path / SUMMARY
        summary = read_object(path) if path.is_file() else None
        return summary if summary and summary.get("status") == "finished" else None

    @contextlib.contextmanager
    def _written(self, name: str, parts: Iterable[str | bytes]) -> Iterator[None]:
        """The file appears when the block is over, whole and on the disk; what is there stays till then."""
        beside = self.path / f"{name}.partial"
        try:
            with beside.open("wb") as file:
                for part in parts:
                    file.write(part.encode() if isinstance(part, str) else part)
                file.flush()
                os.fsync(file.fileno())
            yield
            os.replace(beside, self.path / name)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise

    def write_json(self, name: str, value: dict) -> None:
        """Writes a file of the run; it appears whole. Raises OSError."""
        with self._written(name, [_lines(value)]):
            pass


def _lines(value: dict) -> str:
    return as_json(value, indent=2) + "\n"


def _require_writable(path: Path, key: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        if not any(path.iterdir()):
            path.rmdir()
    except OSError as error:
        raise ConfigError(
            f"{key}: {path} cannot be written ({error.strerror}); type runs_dir=FOLDER with one that can"
        ) from None
