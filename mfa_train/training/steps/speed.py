"""How fast steps are made, and how far a run has come by that, as its records tell it."""

import time

from mfa_train.budget.length import flops_between
from mfa_train.budget.peak import Peak
from mfa_train.training.steps.state import Progress


class Speed:
    """Tokens per second and the share of the devices' peak since the last record, and a run's seconds.

    `plan` tells the FLOPs of a step, forward and backward. `peak`: of one rank's device, of which there are
    `world_size`.
    """

    def __init__(self, plan: dict, peak: Peak, world_size: int):
        self.tokens_per_step = plan["length"]["tokens_per_step"]
        self.plan, self.peak, self.world_size = plan, peak, world_size

    def begin(self, progress: Progress) -> None:
        """Says that the steps begin, or go on from `progress`."""
        now = time.perf_counter()
        self.began_at = now - progress.seconds
        self.recorded_at, self.recorded_step = now, progress.step

    def seconds(self) -> float:
        """How long the run has trained, all starts together."""
        return time.perf_counter() - self.began_at

    def tokens(self, done: int) -> dict[str, int]:
        """The tokens of `done` steps, with their FLOPs."""
        return {"tokens": done * self.tokens_per_step, "flops": flops_between(self.plan, 0, done)}

    def since_record(self, done: int, seconds: float) -> dict[str, float | None]:
        """The speed since the last record, where `done` steps are done after `seconds` of the run. To be called between
        steps: a CPU's peak is measured anew."""
        passed = self.began_at + seconds - self.recorded_at
        return {
            "tokens_per_second": self.tokens_per_step * (done - self.recorded_step) / passed,
            "mfu": self.peak.share(flops_between(self.plan, self.recorded_step, done) / passed / self.world_size),
        }

    def recorded(self, done: int) -> None:
        """Says that the record of step `done` is made: what came before it, evaluation too, counts for no later
        speed."""
        self.recorded_at, self.recorded_step = time.perf_counter(), done
