"""The part of the schema that is about surviving: what is kept on the way, and what a run does about bad numbers."""

import re
from dataclasses import dataclass

from mfa_train.config.requirements import STEPS, require_choice, require_number, require_positive, require_whole
from mfa_train.errors import ConfigError
from mfa_train.words import brief

UPLOAD = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?*#\[\]:]+(/[^\s?*#\[\]]*)?")
"""A bucket and what is put in front of the names in it, without signs that would choose among several."""


@dataclass
class CheckpointConfig:
    """When the whole state is saved and which saves stay; see `mfa_train.checkpoints.folders`."""

    every_steps: int | None
    every_minutes: float | None
    """Of wall time since the last save, beside every_steps or instead of it."""
    keep_last: int
    keep_every: int | None
    """Checkpoints of steps that are multiples of this stay for good."""
    at_steps: list[int]
    """Saved after these steps too, and these stay for good: what other runs branch off."""
    background: bool
    """Written while the steps go on, from a copy in host memory (12 bytes a parameter, shared by the ranks)."""
    upload: str | None
    """A URL below which each whole checkpoint, the final weights and the run's files are copied, as s3://BUCKET/PREFIX;
    see `mfa_train.training.saving.uploads`."""

    def __post_init__(self):
        if self.upload is not None and not UPLOAD.fullmatch(self.upload):
            raise ConfigError(f"checkpoint.upload={brief(self.upload)}: expected a URL, as s3://BUCKET/PREFIX")
        for key in ("every_steps", "keep_every"):
            if getattr(self, key) is not None:
                require_positive(f"checkpoint.{key}", getattr(self, key))
        require_positive("checkpoint.keep_last", self.keep_last, 10**9)
        for step in self.at_steps:
            require_positive("checkpoint.at_steps", step)
        if self.every_minutes is not None:
            require_number("checkpoint.every_minutes", self.every_minutes, 0, 1e9, above=True)


@dataclass
class GuardConfig:
    """What a run does about numbers that cannot be right, and about ranks that stand still; see
    `mfa_train.training.steps.guard`."""

    nonfinite: str
    """stop | skip: where the loss or the gradient's norm is NaN or infinite, end the run or leave out the step."""
    spikes: str
    """log | skip: loss or norm beyond the running bound. skip waits for the device once a step."""
    spike_factor: float
    """The bound: median + factor · 1.4826 · median absolute deviation (a normal distribution's sigma)."""
    spike_window: int
    """Steps that the bound looks back on; half of them must have been seen before anything is a spike."""
    max_skips: int
    """In a row; one more rolls back to the last checkpoint and leaves out the data since."""
    max_rollbacks: int
    hang_seconds: float
    """Without a finished step, after which a rank says where it stands and ends the job."""

    def __post_init__(self):
        require_choice("guard.nonfinite", self.nonfinite, ("stop", "skip"))
        require_choice("guard.spikes", self.spikes, ("log", "skip"))
        require_positive("guard.spike_window", self.spike_window, 10**6)
        require_positive("guard.max_skips", self.max_skips)
        require_whole("guard.max_rollbacks", self.max_rollbacks, 0, STEPS)
        require_number("guard.spike_factor", self.spike_factor, 0, 1e30)
        require_number("guard.hang_seconds", self.hang_seconds, 0.1, 1e9)
