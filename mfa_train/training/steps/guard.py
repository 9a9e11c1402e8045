"""What a run does about numbers that cannot be right.

- **Not finite.** A gradient whose norm is NaN or infinite is never applied: not to weights, nor to the optimizer's
  moments. With guard.nonfinite=stop the run then ends and says what is known; with skip it goes on. A loss that is not
  finite while the norm is, is found when it is read, after the update; with guard.spikes=skip before it.
- **Spikes.** A loss or norm above median + factor · sigma of the last steps (sigma by the median absolute deviation, so
  that spikes do not raise their own bound) is told and counted, or with guard.spikes=skip left out likewise.
- **Too many skips in a row** raise Poisoned: the run goes back to its last checkpoint and past the data since.

The norm is on the host by the time of the update, since DeepSpeed waits for it to clip; the guard adds no wait. The
loss is looked at when it is read, at logged and saved steps; guard.spikes=skip has to know it before the update and
reads it every step. All ranks see the same numbers and decide the same.
"""

import math
import statistics
from collections import deque

from mfa_train.config import GuardConfig
from mfa_train.errors import TrainingError

MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
LEAST_SIGMA = 0.01
"""Of the median: numbers that hardly move make no spike of a tremor."""


class Poisoned(TrainingError):
    """More steps in a row were skipped than guard.max_skips, up to and with `step`."""

    def __init__(self, step: int, skips: int):
        super().__init__(f"{skips} steps in a row, up to step {step}, could not be applied")
        self.step = step


class Guard:
    """What a run's losses and norms have been. `say` is given a line for every skip and spike; `state` is an earlier
    guard's, from a checkpoint."""

    def __init__(self, config: GuardConfig, say, state: dict | None = None):
        state = state or {"skipped": 0, "spikes": 0, "in_a_row": 0, "losses": [], "norms": []}
        self.config, self.say = config, say
        self.skipped, self.spikes, self.in_a_row = state["skipped"], state["spikes"], state["in_a_row"]
        self.losses, self.norms = (deque(state[key], maxlen=config.spike_window) for key in ("losses", "norms"))
        self.applied, self.loss = False, 0.0
        """Whether the update of the step under way is made; its loss, only where `needs_loss`."""

    def state(self) -> dict:
        """What a checkpoint holds of it."""
        return {
            "skipped": self.skipped,
            "spikes": self.spikes,
            "in_a_row": self.in_a_row,
            "losses": list(self.losses),
            "norms": list(self.norms),
        }

    @property
    def needs_loss(self) -> bool:
        """Whether `applies` needs the loss."""
        return self.config.spikes == "skip"

    def begin(self) -> None:
        """Says that a step begins. Where `applies` is not asked before it ends, DeepSpeed itself has dropped the
        update."""
        self.applied = False

    def applies(self, norm: float, loss: float = math.nan) -> bool:
        """Whether the update of the step under way is made, whose gradient has `norm`; `loss` counts where
        `needs_loss`. Asked once or several times a step, with the same answer."""
        self.applied = math.isfinite(norm)
        if self.needs_loss:
            self.loss = loss
            self.applied &= math.isfinite(loss) and not self._spike(loss, norm)
        return self.applied

    def end(self, step: int, norm: float, samples: str) -> None:
        """Says that the step is over: a skip is told. Raises Poisoned where it is one too many."""
        if self.applied:
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        if not math.isfinite(norm):
            what = f"the gradient's norm is {norm}"
        elif not math.isfinite(self.loss):
            what = f"the loss is {self.loss}, while the gradient's norm is finite"
        else:
            what = f"spike, {self._spiked}"
        self.say(f"step {step} skipped, {self.skipped} so far ({what}; {samples})")
        if self.in_a_row > self.config.max_skips:
            raise Poisoned(step, self.in_a_row)

    def look_at(self, step: int, loss: float, norm: float) -> None:
        """Takes a step's numbers, in the order of the steps: they are told where they are a spike, and then count for
        the bound."""
        if not math.isfinite(loss) and math.isfinite(norm) and not self.needs_loss:  # else it was told as a skip
            self.say(f"step {step}: the loss is {loss}, while the gradient's norm is finite: the update was made")
        if self._spike(loss, norm):
            self.spikes += 1
            if not self.needs_loss:
                self.say(f"step {step}: spike, {self._spiked}")
        for value, window in ((loss, self.losses), (norm, self.norms)):
            if math.isfinite(value):
                window.append(value)

    def _spike(self, loss: float, norm: float) -> bool:
        """Whether one of them stands out; `_spiked` then says which."""
        self._spiked = ", ".join(
            f"{what} {value:.4g} above {bound:.4g}"
            for what, value, bound in (
                ("loss", loss, self._bound(self.losses)),
                ("gradient norm", norm, self._bound(self.norms)),
            )
            if math.isfinite(value) and value > bound
        )
        return bool(self._spiked)

    def _bound(self, window: deque) -> float:
        """The largest number that is no spike after those of `window`."""
        if len(window) < max(2, self.config.spike_window // 2):
            return math.inf
        median = statistics.median(window)
        deviation = MAD_TO_SIGMA * statistics.median(abs(value - median) for value in window)
        return median + self.config.spike_factor * max(deviation, LEAST_SIGMA * abs(median))
