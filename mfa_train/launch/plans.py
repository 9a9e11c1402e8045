"""What runs will cost and what their comparison can bring, for a person: of `mfa-train plan`, and of a launch before it
starts anything.

Members that differ in their seed alone are one column. A ladder has a table of its own (scaling/ladder/plan.py).
"""

from collections.abc import Sequence

from mfa_train.budget.match import matched
from mfa_train.budget.nearer import notes_of_match
from mfa_train.budget.plan import make_plan
from mfa_train.budget.rows import Section
from mfa_train.budget.table import BRIEF, WHOLE, table
from mfa_train.config import Config, Member
from mfa_train.errors import ConfigError
from mfa_train.scaling.ladder import members as ladder
from mfa_train.scaling.ladder.plan import ladder_plan, ladder_table
from mfa_train.tracking.terminal import wrapped
from mfa_train.training.before_start import Check, checks_before_plan, checks_of_plan
from mfa_train.training.init_from.begin import require_source
from mfa_train.words import first_few

WITHIN_A_VARIANT = ("seed", "model", "tokens", "training.tokens", "training.steps")
"""Keys in which runs of one variant differ: seed, size and length."""


def plan_of(config: Config) -> dict:
    """The plan of a config that is not matched yet, with what there is to say of its matching, and what a launch would
    refuse it for; but that it does not fit, which the plan says itself. Raises ConfigError."""
    shaped, match = matched(config)
    plan = make_plan(shaped, match=match)
    checks = [*checks_before_plan(shaped), *(checks_of_plan(shaped, plan) if plan["memory"]["fits"] else [])]
    checks.append(lambda: require_source(shaped))
    return plan | {"notes": [*plan["notes"], *notes_of_match(config, match), *_warnings(checks)]}


def whole(members: Sequence[Member], plans: Sequence[dict] = ()) -> str:
    """All that is known; a plan for each of the members, but for a ladder's."""
    told = _told(members, plans, WHOLE)
    if not ladder.is_ladder(members):
        return told
    warnings = dict.fromkeys(line for member in members for line in _warnings(checks_before_plan(member.config)))
    return "\n".join([told, *map(wrapped, first_few(list(warnings)))])


def brief(members: Sequence[Member], plans: Sequence[dict]) -> str:
    """What a launch does, and what it costs."""
    return _told(members, plans, BRIEF)


def _told(members: Sequence[Member], plans: Sequence[dict], sections: Sequence[Section]) -> str:
    if ladder.is_ladder(members):
        rows, gap, said = ladder_table(ladder_plan(members)).partition("\n\n")
        told = rows + gap + "\n".join(map(wrapped, said.split("\n")))
    else:
        columns: dict[str, list[int]] = {}
        for number, member in enumerate(members):
            columns.setdefault(_title(member), []).append(number)
        first = [plans[numbers[0]] for numbers in columns.values()]
        told = table(list(columns), first, [len(numbers) for numbers in columns.values()], sections)
    can_bring = _can_bring(members)
    return "\n".join([told, *([""] if can_bring else []), *map(wrapped, can_bring)])


def _warnings(checks: Sequence[Check]) -> list[str]:
    """What a launch would be refused for, in its words."""
    warnings = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            warnings.append(f"warning: {error}")
    return warnings


def _title(member: Member) -> str:
    """What is swept, but for the seed."""
    swept = [choice for choice in member.swept if not choice.startswith("seed=")]
    return Member(swept, [], member.config).label or member.config.attention["name"]


def _can_bring(members: Sequence[Member]) -> list[str]:
    """Whether `compare` will give verdicts, and what it takes: by its own rules, with the fewest seeds that a variant
    has."""
    seeds: dict[tuple[str, ...], set[int]] = {}
    for member in members:
        variant = tuple(choice for choice in member.swept if choice.split("=")[0] not in WITHIN_A_VARIANT)
        seeds.setdefault(variant, set()).add(member.config.seed)
    if len(seeds) < 2:
        return []
    from mfa_train.scaling.verdicts.enough import told_before

    sizes = len({member.config.model.name for member in members})
    return told_before(len(seeds), sizes, min(map(len, seeds.values())))
