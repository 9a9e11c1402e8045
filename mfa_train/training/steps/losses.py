"""The losses of the steps, on the device until they are looked at: by the log, a checkpoint or the guard.

When they are read changes no number: each step's mean over the ranks is summed exactly, so a run that was saved, killed
and resumed logs the same bits as one that was not.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mfa_train.errors import TrainingError
from mfa_train.training.processes.ranks import Ranks
from mfa_train.training.steps.state import TrainingState


class EndedStep(NamedTuple):
    """What is known of a step that is over, but for its loss."""

    step: int
    norm: float
    """Of the whole gradient."""
    applied: bool
    """Whether its update was made."""
    samples: str
    """Which of the order."""


class Losses:
    """Reads into `progress.losses` of `state`; every number goes past its guard in the order of the steps."""

    def __init__(self, ranks: Ranks, state: TrainingState):
        self.ranks, self.guard, self.progress = ranks, state.guard, state.progress
        self.unread: list[torch.Tensor] = []
        self.ended: list[EndedStep] = []
        """Those of the unread that have ended."""
        self.upcoming = math.nan
        """The loss of the step under way, where the guard needs it before the update."""

    def add(self, loss: torch.Tensor) -> None:
        """`loss` is this rank's, of the step under way."""
        self.unread.append(loss)
        if self.guard.needs_loss:
            self.upcoming = _mean(self.ranks.gather(loss).tolist())

    def end_step(self, step: int, norm: float, samples: str) -> float | None:
        """Says that the step is over; gives its norm as a record holds it. Raises TrainingError and Poisoned."""
        self.ended.append(EndedStep(step, norm, self.guard.applied, samples))
        if self.guard.needs_loss or (not math.isfinite(norm) and self.guard.config.nonfinite == "stop"):
            self.read()
        self.guard.end(step, norm, samples)
        return norm if math.isfinite(norm) else None

    def read(self, beside: Sequence[float] = ()) -> list[list[float]]:
        """Reads all that are unread, and waits for the device; gives what each rank has to say `beside` them, as many
        numbers on each. Raises TrainingError for a number that is not finite with guard.nonfinite=stop."""
        if not self.unread and not beside:
            return []
        told = torch.tensor(beside, dtype=torch.float64, device=self.ranks.device)
        unread = torch.stack(self.unread).double() if self.unread else told[:0]
        by_rank = self.ranks.gather(torch.cat([unread, told])).tolist()
        for losses, ended in zip(zip(*by_rank), self.ended):
            loss = _mean(losses)
            if not (math.isfinite(loss) and math.isfinite(ended.norm)) and self.guard.config.nonfinite == "stop":
                raise TrainingError(_what_is_known(losses, ended))
            self.guard.look_at(ended.step, loss, ended.norm)
            self.progress.losses.append(loss)
        count = len(self.unread)
        self.unread, self.ended = [], []
        return [numbers[count:] for numbers in by_rank]

    def take_mean(self, beside: Sequence[float] = ()) -> tuple[float | None, list[list[float]]]:
        """The mean loss over the steps since it was last taken, but for those that were not finite, and skipped; and
        what each rank says `beside`."""
        told = self.read(beside)
        finite = [loss for loss in self.progress.losses if math.isfinite(loss)]
        self.progress.losses = []
        return (_mean(finite) if finite else None), told


def _mean(values) -> float:
    """The mean, rounded once: it does not depend on the order."""
    if not all(map(math.isfinite, values)):
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # finite, and no sum is
        return math.fsum(value / len(values) for value in values)


def _what_is_known(losses: tuple[float, ...], ended: EndedStep) -> str:
    step, norm, applied, samples = ended
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
