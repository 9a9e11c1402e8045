"""Runs that began with weights that were there already (`init_from`): beside runs from scratch they stand for more
tokens and FLOPs than their own files count."""

from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.runs import Run

KEY = "init_from"


def leave_out_continued(runs: list[Run], by: tuple[str, ...]) -> list[str]:
    """Leaves them out beside runs from scratch, unless they are told apart `by` it; gives what is to be said of those
    that stay."""
    continued = [run for run in runs if run.excluded is None and run.config.get(KEY) is not None]
    others = any(run.excluded is None and run.config.get(KEY) is None for run in runs)
    if continued and others and KEY not in by:
        for run in continued:
            run.excluded = (
                f"it began with the weights of {shown(run.config[KEY])}, the others from scratch: --by {KEY} compares "
                "both, as variants of their own"
            )
        return []
    if continued:
        return [
            f"{len(continued)} runs began with weights that were there ({KEY}): tokens and FLOPs count from there on"
        ]
    return []
