"""What shapes a run's future beside the engine and its data: saved, restored and rolled back together."""

from dataclasses import dataclass, field
from typing import Any

from mfa_train.training.steps.guard import Guard


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Of training, all starts together."""
    left_out: int = 0
    """Samples that rollbacks have passed over: step s consumes [s·B + left_out, (s + 1)·B + left_out)."""
    rollbacks: int = 0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last record."""
    stretches: list[dict] = field(default_factory=list)
    """From which step with which settings, another run's before it branched off included; empty in an older
    checkpoint."""
    idle_experts: list[list[int]] = field(default_factory=list)
    """Of each layer's experts, how many records in a row have found it without a token; empty before the first."""
    dead_experts: int = 0
    """Of them, as many as were told of (`expert_loads.DeadExperts`)."""


@dataclass
class TrainingState:
    """Both of them."""

    progress: Progress
    guard: Guard
    init_from: dict[str, Any] | None = None
    """Where the first step's weights came from: `init_from.source.Source.record`, and `val_loss` with them, where asked
    by position too."""

    def history(self) -> dict:
        """What summary.json holds of the way there: where it isn't all of one stretch and nothing was left out, the
        loss may be another than the config alone would give."""
        return {
            "stretches": self.progress.stretches,
            "rollbacks": self.progress.rollbacks,
            "left_out_samples": self.progress.left_out,
            "skipped_steps": self.guard.skipped,
            **({"init_from": self.init_from} if self.init_from else {}),
        }
