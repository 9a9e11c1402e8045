"""How long a run trains, and at what learning rates."""

from mfa_train.config import Config


def length_of(config: Config, params: int) -> dict:
    """`length` of a plan: whole steps, so that its tokens may be a few more than training.tokens asks for."""
    training, schedule = config.training, config.schedule
    steps, per_step = training.total_steps, training.batch_size * training.sequence_length
    return {
        "steps": steps,
        "tokens_per_step": per_step,
        "tokens": steps * per_step,
        "tokens_per_parameter": steps * per_step / params,
        "schedule": schedule.name,
        "warmup_steps": schedule.warmup_steps,
        "peak_learning_rate": config.optimizer.lr,
        "last_learning_rate": config.optimizer.lr * (schedule.min_lr_ratio if _decays(config) else 1),
    }


def _decays(config: Config) -> bool:
    """Whether a step is left that is behind the warmup, and in the decay of a WSD schedule."""
    schedule, steps = config.schedule, config.training.total_steps
    return schedule.warmup_steps < steps and (schedule.name != "wsd" or round(schedule.decay_fraction * steps) > 0)
