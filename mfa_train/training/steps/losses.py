"""The losses of the steps, on the device until they are looked at: by the log, a checkpoint or the guard.

When they are read changes no number: each step's mean over the ranks is summed exactly, so a run that was saved, killed
and resumed logs the same bits as one that was not.
"""

import math

import torch

from mfa_train.errors import TrainingError
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.resuming.starting_point import Progress
from mfa_train.training.steps.guard import Guard


class Losses:
    """Reads into `progress.losses`; every number goes past the guard in the order of the steps."""

    def __init__(self, ranks: Ranks, guard: Guard, progress: Progress):
        self.ranks, self.guard, self.progress = ranks, guard, progress
        self.unread: list[torch.Tensor] = []
        self.steps: list[tuple[int, float, bool, str]] = []
        """(step, gradient norm, whether it was applied, samples) of the unread ones that have ended."""
        self.upcoming: float | None = None
        """Of the step under way, where the guard needs it before the update."""

    def add(self, loss: torch.Tensor) -> None:
        """This rank's, of the step under way."""
        self.unread.append(loss)
        if self.guard.needs_loss:
            self.upcoming = _mean(self.ranks.gather(loss).tolist())

    def end_step(self, step: int, norm: float, samples: str) -> float | None:
        """The step is over; gives its norm as a record holds it. Raises TrainingError and Poisoned."""
        self.steps.append((step, norm, self.guard.applied, samples))
        if self.guard.needs_loss or (not math.isfinite(norm) and self.guard.config.nonfinite == "stop"):
            self.read()
        self.guard.end(step, norm, samples)
        return norm if math.isfinite(norm) else None

    def read(self) -> None:
        """Waits for the device. Raises TrainingError for a number that is not finite with guard.nonfinite=stop."""
        if not self.unread:
            return
        by_rank = self.ranks.gather(torch.stack(self.unread)).tolist()
        for losses, (step, norm, applied, samples) in zip(zip(*by_rank), self.steps):
            loss = _mean(losses)
            if not (math.isfinite(loss) and math.isfinite(norm)) and self.guard.config.nonfinite == "stop":
                raise TrainingError(_what_is_known(losses, step, norm, applied, samples))
            self.guard.look_at(step, loss, norm)
            self.progress.losses.append(loss)
        self.unread, self.steps = [], []

    def take_mean(self) -> float | None:
        """Over the steps since it was last taken; those that were not finite, and skipped, are left out."""
        self.read()
        finite = [loss for loss in self.progress.losses if math.isfinite(loss)]
        self.progress.losses = []
        return _mean(finite) if finite else None


def _mean(values) -> float:
    """Rounded once: it does not depend on the order."""
    if not all(map(math.isfinite, values)):
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # finite, and no sum is
        return math.fsum(value / len(values) for value in values)


def _what_is_known(losses: tuple[float, ...], step: int, norm: float, applied: bool, samples: str) -> str:
    bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad:
        what = f"the loss is {losses[bad[0]]} at step {step} on rank {', '.join(map(str, bad))} ({samples}), "
        what += f"{'while' if math.isfinite(norm) else 'and'} the gradient's norm is {norm:.4g}"
    else:
        what = f"the gradient's norm is {norm} at step {step}, while every rank's loss was finite ({samples})"
    skip = "guard.nonfinite=skip to leave such steps out"
    if applied:  # the loss was read after it
        skip = "guard.nonfinite=skip to go on all the same, with guard.spikes=skip to leave such steps out"
    return (
        f"{what}; the update was {'made' if applied else 'not made'}. Look at the samples, lower optimizer.lr=… or "
        f"lengthen schedule.warmup_steps=…, or type {skip}"
    )
