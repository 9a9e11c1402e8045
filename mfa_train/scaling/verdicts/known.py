"""Numbers of a run that is compared: those are known, or the run would have been left out."""

from mfa_train.scaling.study.runs import Run


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


def tokens_of(run: Run) -> float:
    """D."""
    return _known(run, "number of tokens", run.tokens)


def flops_of(run: Run) -> float:
    """Of its training. To be asked where the run has them: a table of points need not."""
    return _known(run, "number of FLOPs", run.flops)


def cache_of(run: Run) -> float:
    """KV bytes per token. To be asked where the run has them."""
    return _known(run, "KV cache", run.kv_bytes_per_token)
