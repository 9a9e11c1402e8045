"""When a run saves, and when it stops: both after a step, the same one on every rank."""

import dataclasses
import time

from mfa_train.checkpoints.folders import folder_of
from mfa_train.checkpoints.tensor_files import EMA
from mfa_train.config import Config
from mfa_train.errors import Stopped
from mfa_train.tracking.run_log import RunLog, SilentLog
from mfa_train.tracking.starts import versions
from mfa_train.training.processes.agreed_steps import AgreedSteps
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.processes.signals import StopSignals
from mfa_train.training.saving.uploads import Uploads
from mfa_train.training.saving.writer import CheckpointWriter
from mfa_train.training.steps.state import TrainingState


class SavePoints:
    """Saves and stops one start of a run. `earlier_starts` is how often the run was started before, `data` what its
    samples are a function of, `code_commit` that of the code that trains."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        earlier_starts: int,
        data: dict,
        log: RunLog | SilentLog,
        signals: StopSignals,
        code_commit: str | None,
        uploads: Uploads | None = None,
    ):
        self.config, self.ranks, self.data, self.log, self.signals = config, ranks, data, log, signals
        self.code_commit = code_commit
        self.agreed = AgreedSteps(ranks)
        self.folder = config.run_dir / "checkpoints"
        self.writer = CheckpointWriter(
            config.checkpoint, self.folder, earlier_starts, ranks, config.guard.hang_seconds, uploads
        )
        self.saved_at, self.stopping, self.blocking_seconds = time.monotonic(), False, 0.0

    def due(self, done: int) -> bool:
        """Whether every rank saves after step `done`: by the config, or to stop."""
        keys, by_clock = self.config.checkpoint, self._by_clock
        if self.signals.received:
            self.agreed.call_for("stop", done)
        minutes = (time.monotonic() - self.saved_at) / 60
        if keys.every_minutes is not None and self.ranks.is_rank_zero and minutes > keys.every_minutes:
            self.agreed.call_for(by_clock, done)
        self.agreed.look()
        self.stopping = self.agreed.due("stop", done)
        return (
            self.stopping
            or done == self.config.training.total_steps
            or (keys.every_steps is not None and done % keys.every_steps == 0)
            or done in keys.at_steps
            or (keys.every_minutes is not None and self.agreed.due(by_clock, done))
        )

    @property
    def _by_clock(self) -> str:
        """The next save that checkpoint.every_minutes asks for, as ranks call for it."""
        return f"save-{self.writer.saved}"

    def go_back(self, step: int) -> None:
        """The ranks go back to `step`: what was called for after a later one is not put off until it comes again. Rank
        0 only, while the others wait."""
        for what in ("stop", self._by_clock):
            self.agreed.go_back(what, step)

    def save(self, engine, state: TrainingState) -> None:
        """Every rank calls it after the same step; what a checkpoint holds says `manifest`."""
        begun, ema = time.monotonic(), self.config.training.ema
        self.log.flush()
        self.writer.save(
            engine,
            state.progress.step,
            {
                "progress": dataclasses.asdict(state.progress),
                "guard": state.guard.state(),
                "init_from": state.init_from,
                "data": self.data,
                "config": dataclasses.asdict(self.config),
                "versions": versions(),
                "code_commit": self.code_commit,
                "wandb": self.log.wandb_identity(),
                **({} if ema is None else {EMA: ema}),
            },
        )
        self.saved_at = time.monotonic()
        self.blocking_seconds += self.saved_at - begun

    def told(self) -> dict[str, float]:
        """For a record: how long the steps stood still for saves since the last one, and how long those took that came
        to their end since, where there was any."""
        blocking, self.blocking_seconds = self.blocking_seconds, 0.0
        took, self.writer.seconds = self.writer.seconds, []
        return {
            **({"checkpoint/blocking_seconds": blocking} if blocking else {}),
            **({"time/save_seconds": sum(took)} if took else {}),
        }

    def finish(self) -> None:
        """Waits until what was begun is visible."""
        self.writer.wait()
        self.ranks.meet()

    def stop_if_asked(self, done: int) -> None:
        """Raises Stopped after the step that a signal's rank has named, as `due` has seen."""
        if not self.stopping:
            return
        self.finish()
        checkpoint = folder_of(self.folder, done)
        saved = f"saved in {checkpoint}" if checkpoint.is_dir() else "this step could not be saved"
        raise Stopped(
            f"{self.signals.received or 'a signal to another rank'} after step {done}; {saved}; the same "
            "command goes on from the newest checkpoint"
        )
