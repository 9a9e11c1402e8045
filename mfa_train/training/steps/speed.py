"""How fast steps are made, and how far a run has come by that, as its records tell it."""

import time

from mfa_train.budget.peak import Peak
from mfa_train.config import Config
from mfa_train.training.steps.state import Progress


class Speed:
    """Tokens per second and the share of the devices' peak since the last record, and a run's seconds.

    `flops_per_token`: of training, forward and backward. `peak`: of one rank's device, of which there are `world_size`.
    """

    def __init__(self, config: Config, flops_per_token: int, peak: Peak, world_size: int):
        self.tokens_per_step = config.training.batch_size * config.training.sequence_length
        self.flops_per_token, self.peak, self.world_size = flops_per_token, peak, world_size

    def begin(self, progress: Progress) -> None:
        """The steps begin, or go on from `progress`."""
        now = time.perf_counter()
        self.began_at = now - progress.seconds
        self.recorded_at, self.recorded_step = now, progress.step

    def seconds(self) -> float:
        """Of the run, all starts together."""
        return time.perf_counter() - self.began_at

    def tokens(self, done: int) -> dict[str, int]:
        """Of `done` steps, with their FLOPs."""
        tokens = done * self.tokens_per_step
        return {"tokens": tokens, "flops": tokens * self.flops_per_token}

    def since_record(self, done: int, seconds: float) -> dict[str, float | None]:
        """`done` steps are done after `seconds` of the run. Call it between steps: a CPU's peak is measured anew."""
        passed = self.began_at + seconds - self.recorded_at
        tokens_per_second = self.tokens_per_step * (done - self.recorded_step) / passed
        return {
            "tokens_per_second": tokens_per_second,
            "mfu": self.peak.share(tokens_per_second * self.flops_per_token / self.world_size),
        }

    def recorded(self, done: int) -> None:
        """A record of step `done` is made: evaluating counts for no speed."""
        self.recorded_at, self.recorded_step = time.perf_counter(), done
