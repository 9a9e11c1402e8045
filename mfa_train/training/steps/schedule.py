"""The learning rate as a pure function of the step."""

import math

from mfa_train.config import ScheduleConfig
from mfa_train.errors import ConfigError


def learning_rate(config: ScheduleConfig, peak: float, step: int, total_steps: int) -> float:
    """The learning rate of `step`, counted from 0: it rises linearly over warmup_steps, then falls to peak ·
    min_lr_ratio at the last.

    cosine and linear fall from the end of the warmup, wsd (arXiv 2404.06395) over the last decay_fraction of all steps.
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    decays_from = decay_start(config, total_steps)
    if step < decays_from:
        return peak
    share = (step + 1 - decays_from) / max(1, total_steps - decays_from)
    left = 0.5 * (1 + math.cos(math.pi * share)) if config.name == "cosine" else 1 - share
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


def decay_start(config: ScheduleConfig, total_steps: int) -> int:
    """The first step that decays."""
    if config.name != "wsd":
        return config.warmup_steps
    return max(config.warmup_steps, total_steps - round(config.decay_fraction * total_steps))


def check_schedule(config: ScheduleConfig, total_steps: int) -> None:
    """Raises ConfigError for a warmup longer than the run."""
    if not 0 <= config.warmup_steps <= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps={config.warmup_steps} does not fit into {total_steps} steps: "
            f"type schedule.warmup_steps={total_steps // 10}"
        )
