"""A rung of a ladder is a size: how many tokens it is trained on, in which batches, at which learning rate.

All of it follows from the reference at that size, not from the variant, so that every variant gets the same tokens in
the same order. Step Law (arXiv 2503.04715) says batch and rate where neither is typed.
"""

import math

from mfa_train.budget.shape import Shape
from mfa_train.config import RungConfig
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder.request import Request


def rungs_of(request: Request) -> list[RungConfig]:
    """The ladder's sizes, or the one that was typed. Raises ConfigError where none of them is that one."""
    rungs = [request.without_typed(rung) for rung in request.ladder.rungs]
    rungs = rungs or [RungConfig(request.config.model.name)]
    model = request.chosen("model")
    chosen = [rung for rung in rungs if model in (None, rung.model)]
    if not chosen:
        raise ConfigError(
            f"model={model}: no rung of the ladder has it; it has {', '.join(rung.model for rung in rungs)}: type one "
            "of them, or sweep=ladder model=…"
        )
    return chosen


def token_budgets(request: Request, rung: RungConfig, reference: Shape, sequence_length: int) -> list[float]:
    """Tokens of the rung's runs, the largest number first. Raises ConfigError where no length is said."""
    ladder = request.ladder
    if flops := rung.flops or (ladder.flops if rung.tokens_per_parameter is None else None):
        if request.config.training.sequence_schedule is not None:
            raise ConfigError(
                "sweep.ladder.flops with training.sequence_schedule: what a token costs changes on the way: type "
                "sweep.ladder.tokens_per_parameter=[5,10,20] sweep.ladder.flops=null"
            )
        return sorted((amount / reference.train_flops_per_token(sequence_length) for amount in flops), reverse=True)
    if multiples := rung.tokens_per_parameter or ladder.tokens_per_parameter:
        return sorted((multiple * reference.params for multiple in multiples), reverse=True)
    raise ConfigError(
        f"sweep.ladder: how long model={rung.model} is trained is not said: type "
        "sweep.ladder.tokens_per_parameter=[5,10,20], or sweep.ladder.flops=[1e18,1e19]"
    )


def batch_size(request: Request, rung: RungConfig, tokens: float, sequence_length: int, own: int) -> int:
    """Sequences in a step of the largest budget's run, of `tokens`, and of all others of the rung; `own` is the
    config's."""
    if "training.batch_size" in request.typed:
        return own
    if rung.batch_size:
        return rung.batch_size
    if request.ladder.batch_size == "step_law":  # to the nearest power of two
        return 2 ** max(0, round(math.log2(step_law_batch_tokens(tokens) / sequence_length)))
    return own


def peak_learning_rate(
    request: Request, variant: str, share: float | None, reference: Shape, tokens: float, own: float
) -> float:
    """Of all budgets of the variant at one share of MHA's cache, by the largest of `tokens`; `own` is the config's."""
    if "optimizer.lr" in request.typed:
        return own
    if request.ladder.learning_rate == "step_law":
        own = step_law_learning_rate(reference.params - reference.embedding_params, tokens)
    factors = request.ladder.learning_rate_factors
    at_share = f"{variant}@{share:g}" if share else variant
    return float(f"{own * factors.get(at_share, factors.get(variant, 1)):.3g}")


def step_law_learning_rate(non_embedding_params: float, tokens: float) -> float:
    """Peak learning rate by arXiv 2503.04715, equation 1."""
    return 1.79 * non_embedding_params**-0.713 * tokens**0.307


def step_law_batch_tokens(tokens: float) -> float:
    """Tokens in a step by arXiv 2503.04715, equation 1."""
    return 0.58 * tokens**0.571
