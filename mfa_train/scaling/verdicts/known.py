"""Numbers of a run that is compared: those are known, or the run would have been left out."""

from collections.abc import Sequence

import numpy as np

from mfa_train.scaling.study.mixtures import is_mixture
from mfa_train.scaling.study.runs import PARAMS_WITHIN, Run


def _known(run: Run, what: str, value: float | None) -> float:
    if value is None:
        raise ValueError(f"{run.name}: its {what} is not known, so it cannot be compared")
    return value


def loss_of(run: Run) -> float:
    """Held out, in the unit of the study."""
    return _known(run, "loss", run.loss)


def params_of(run: Run) -> float:
    """N, as the study counts it."""
    return _known(run, "number of parameters", run.params)


def of_one_size(own: Sequence[Run], others: Sequence[Run]) -> bool:
    """Whether the means of their parameters are those of one size: N, or of mixtures of experts all parameters."""
    counts = [params_of]
    if all(is_mixture(run) and run.total_params for run in (*own, *others)):
        counts.append(lambda run: _known(run, "number of parameters", run.total_params))
    return any(
        abs(np.log(np.mean([count(run) for run in own]) / np.mean([count(run) for run in others]))) <= PARAMS_WITHIN
        for count in counts
    )


def tokens_of(run: Run) -> float:
    """D."""
    return _known(run, "number of tokens", run.tokens)


def flops_of(run: Run) -> float:
    """Of its training. To be asked where the run has them: a table of points need not."""
    return _known(run, "number of FLOPs", run.flops)


def cache_of(run: Run) -> float:
    """KV bytes per token. To be asked where the run has them."""
    return _known(run, "KV cache", run.kv_bytes_per_token)
