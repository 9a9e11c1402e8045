"""Mixtures of experts among runs: N is what a token meets, and no law is of them and of dense models."""

from mfa_train.errors import DataError
from mfa_train.scaling.study.runs import Run

KEY = "model.feed_forward.name"
COUNTED = "of mixtures of experts those alone that a token meets"


def is_mixture(run: Run) -> bool:
    """Whether a token meets a part of the run's parameters; of a row of a table it is not known."""
    return run.config.get(KEY, "dense") != "dense"


def set_apart(used: list[Run], by: tuple[str, ...]) -> list[str]:
    """What is to be said of mixtures among the runs that are compared. Raises DataError where there are dense ones too,
    unless they are told apart `by` it."""
    trained = [run for run in used if run.config]
    mixtures = [run for run in trained if is_mixture(run)]
    if not mixtures:
        return []
    if len(mixtures) < len(trained) and KEY not in by:
        raise DataError(
            f"{len(mixtures)} of {len(trained)} runs are mixtures of experts, the others dense, and one law is not of "
            f"both: name runs of one kind, or type --by {KEY} to hold them side by side as variants of their own"
        )
    sizes = sorted({(run.total_params or 0, run.active_params or 0) for run in mixtures})
    (least, its), (most, those) = sizes[0], sizes[-1]
    across = f"{its:.4g} of {least:.4g}" + (f" to {those:.4g} of {most:.4g}" if most > least else "")
    return [f"N of mixtures counts the parameters that a token meets ({across}), and so does 6 N D"]
