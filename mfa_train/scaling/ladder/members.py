"""A ladder: every variant of a study at every size, token budget and seed, as members of one sweep.

1. What is typed chooses among what the ladder has, or is set for all of its runs (request.py).
2. A rung is a size. Its token budgets follow from the parameters, or the FLOPs, of the reference at that size, so
   that all variants get the same tokens in the same order (rungs.py).
3. Each variant is matched to the reference's parameters and to shares of the KV cache of the size's MHA. What has no
   such shape is left out, and said (variants.py).
4. Of the budgets of one variant, size and seed the largest is a run of its own. A WSD schedule is constant until it
   decays, so the smaller ones are what that run was up to where they would begin to decay: they branch off there,
   and are, number for number, the runs that would have been trained from the start (branches.py).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mfa_train import config as configs
from mfa_train.config import Member
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder.branches import run_and_branches
from mfa_train.scaling.ladder.request import Request, requested
from mfa_train.scaling.ladder.rungs import rungs_of
from mfa_train.scaling.ladder.variants import shaped_variants

Say = Callable[[str], None]


def members(overrides: Sequence[str], say: Say = print) -> list[Member]:
    """The members of the sweep that `overrides` describe: a ladder's, seed after seed, each run before its branches; or
    any other's.

    `say` is told what is left out. Raises ConfigError.
    """
    base = configs.members(overrides)
    if all(one.config.sweep.ladder is None for one in base):
        return base
    seeds = list(dict.fromkeys(one.config.seed for one in base))
    by_seed = [
        (place + seeds.index(one.config.seed), runs)
        for one in base
        if (ladder := one.config.sweep.ladder) is not None
        for place, runs in _runs_by_seed(requested(one, ladder, overrides), say)
    ]
    if not by_seed:
        raise ConfigError(
            "sweep.ladder: no variant of it has a shape at these sizes and shares of MHA's cache: type larger ones, as "
            "sweep.ladder.kv_shares=[0.5]"
        )
    found = [member for _, runs in sorted(by_seed, key=lambda one: one[0]) for member in runs]
    folders: dict[Path, Member] = {}
    for member in found:
        if folders.setdefault(member.config.run_dir, member) is not member:
            raise ConfigError(
                f"{' '.join(member.swept)} and another member of the ladder would both be the run "
                f"{member.config.run_dir}: two of its budgets or shares are nearly the same"
            )
    return found


def is_ladder(members: Sequence[Member]) -> bool:
    """Whether the members of a sweep are a ladder's."""
    return any(choice.startswith("variant=") for choice in members[0].swept)


def _runs_by_seed(request: Request, say: Say) -> Iterator[tuple[int, list[Member]]]:
    """The runs of each variant, size and seed, with the seed's place among the rung's."""
    for rung in rungs_of(request):
        for shaped in shaped_variants(request, rung, say):
            for place, seed in enumerate(request.seeds(rung)):
                yield place, run_and_branches(request, rung, shaped, seed)
