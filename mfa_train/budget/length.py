"""How long a run trains, and at what learning rates."""

from collections.abc import Callable, Sequence

from mfa_train.config import Config
from mfa_train.config.sequence_schema import StageConfig


def length_of(config: Config, params: int) -> dict:
    """`length` of a plan: whole steps, so that its tokens may be a few more than training.tokens asks for."""
    training, schedule = config.training, config.schedule
    steps, per_step = training.total_steps, training.tokens_per_step
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


def stages_of(config: Config, flops_per_token: Callable[[int], int]) -> dict:
    """What `length` of a plan has besides where there is a training.sequence_schedule: its `stages`. flops_per_token:
    of training, by the length of its sequences."""
    if config.training.sequence_schedule is None:
        return {}
    return {
        "stages": [
            {
                "first_step": stage.first_step,
                "sequence_length": stage.sequence_length,
                "flops_per_token": flops_per_token(stage.sequence_length),
            }
            for stage in config.training.stages
        ]
    }


def flops_between(plan: dict, begin: int, end: int) -> int:
    """Of training a plan's steps behind the first `begin`, up to `end`, each by what a token of its stage costs."""
    length, per_token = plan["length"], plan["flops"]["train_per_token"]
    stages = length.get("stages") or [{"first_step": 0, "flops_per_token": per_token}]
    ends = [*(stage["first_step"] for stage in stages[1:]), end]
    return sum(
        max(0, min(last, end) - max(stage["first_step"], begin)) * length["tokens_per_step"] * stage["flops_per_token"]
        for stage, last in zip(stages, ends, strict=True)
    )


def notes_of_stages(length: dict, schedule: Sequence[StageConfig] | None) -> list[str]:
    """What is said of `length` of a plan with a training.sequence_schedule: when each stage begins."""
    if "stages" not in length:
        return []
    told = [
        f"{stage['sequence_length']:,} from step {stage['first_step'] + 1:,}"
        + (
            ""
            if (tokens := stage["first_step"] * length["tokens_per_step"]) == asked.from_tokens
            else f" ({tokens:,} tokens: {asked.from_tokens:,} in whole steps)"
        )
        for stage, asked in zip(length["stages"], schedule or [], strict=True)
    ]
    return [
        f"training.sequence_schedule: sequences of {', '.join(told)}; memory, a step and its MFU are those of the last "
        "stage, FLOPs of the run those of each"
    ]


def _decays(config: Config) -> bool:
    """Whether a step is left that is behind the warmup, and in the decay of a WSD schedule."""
    schedule, steps = config.schedule, config.training.total_steps
    return schedule.warmup_steps < steps and (schedule.name != "wsd" or round(schedule.decay_fraction * steps) > 0)
