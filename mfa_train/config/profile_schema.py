"""The part of the schema that is about a look into the steps: a trace of some of them, on some ranks."""

from dataclasses import dataclass

from mfa_train.config.requirements import STEPS, require_whole
from mfa_train.errors import ConfigError

MOST_STEPS = 100
"""In one trace: a step of a large model is 50,000 events, which a host holds until they are written."""
FIRST = 2
"""The earliest step of a trace: the one before it warms the profiler up."""


@dataclass
class ProfileConfig:
    """Which steps of the run torch's profiler records; see `mfa_train.training.steps.profiling`."""

    step: int | None
    """The first; null: none, but those that `mfa-train profile` asks for."""
    steps: int
    ranks: list[int]

    def __post_init__(self):
        if self.step is not None:
            require_whole("profile.step", self.step, FIRST, STEPS)
        require_window("profile.steps", self.steps)
        require_ranks("profile.ranks", self.ranks)


def require_window(key: str, steps: int) -> None:
    """Raises ConfigError for a number of steps that is no trace's."""
    require_whole(key, steps, 1, MOST_STEPS)


def require_ranks(key: str, ranks: list[int], world_size: int | None = None) -> None:
    """Raises ConfigError for what is no list of ranks, or names one that `world_size` ranks have not."""
    typed = ",".join(map(str, ranks))
    if not ranks or min(ranks) < 0 or len(set(ranks)) < len(ranks):
        raise ConfigError(f"{key}={typed}: expected numbers of ranks from 0, each once, as 0,7")
    if world_size is not None and max(ranks) >= world_size:
        there = "one rank, 0" if world_size == 1 else f"{world_size:,} ranks, 0 to {world_size - 1:,}"
        raise ConfigError(f"{key}={typed}: the run has {there}: type those")
