"""A trained model as a scaling law sees it: its size, its tokens, its loss."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from mfa_train.scaling.study.runs import Run


@dataclass(frozen=True, slots=True)
class Point:
    """A run that is compared, of which these counts are therefore known."""

    variant: str
    size: str | None
    """Runs that share it are of one size, whatever their attention."""
    seed: Hashable
    params: float
    tokens: float
    loss: float
    flops: float | None
    """Of its training; None where a table doesn't tell them."""


def points_of(runs: Iterable[Run]) -> list[Point]:
    """The runs as points, in their order."""
    return [
        Point(run.variant, run.size, run.seed, run.params, run.tokens, run.loss, run.flops)
        for run in runs
        if run.params is not None and run.tokens is not None and run.loss is not None
    ]
