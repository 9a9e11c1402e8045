"""Where a variant's choices are coarse, and it stays far below its cache budget: that it does, and what would bring it
nearer.

GQA's key heads divide its heads, TPA's ranks are few: the largest cache that is not above the budget may be half of it,
and a comparison "at one cache" is then none. Another width of the heads, or another number of them, has other choices.
"""

from dataclasses import replace

from mfa_train.budget.match import matched, next_above
from mfa_train.config import Config
from mfa_train.errors import ConfigError

FAR = 0.05
"""Below the budget, as a share of it."""
KEYS = {"head_dim": 8, "num_attention_heads": 1}
"""What may be changed beside what the budget sets, and its unit."""
LARGEST = 0.5
"""Change of one of them, as a share of what it was."""
TRIED = 12
"""Values of one key."""
_noted: dict[str, str] = {}
"""By what the note depends on: members of a sweep are often alike."""


def notes_of_match(config: Config, report: dict | None) -> list[str]:
    """One line where `report`, of the matching of `config`, tells of a cache far below the budget, or of one that is
    kept and misses it; else none."""
    if not report or not report["kv_cache"] or report["kv_cache"]["role"] == "reference":
        return []
    if report["kv_cache"]["role"] == "kept":
        return _kept(config, report["kv_cache"])
    if _of_cache(report) >= -FAR:
        return []
    key = repr((config.model, config.attention, config.match, config.plan.cache_dtype))
    if key not in _noted:
        _noted[key] = _note(config, report)
    return [_noted[key]]


def _kept(config: Config, cache: dict) -> list[str]:
    """Of a variant without a key that sets its cache."""
    if -FAR <= cache["difference"] <= 0:
        return []
    return [
        f"warning: {config.attention['name']} of model={config.model.name} keeps its cache of "
        f"{cache['bytes_per_token']:,} bytes per token, which no key of it sets: it misses the budget of "
        f"{cache['target']:,} by {cache['difference']:+,.0%}"
    ]


def _note(config: Config, report: dict) -> str:
    cache = report["kv_cache"]
    name, below = config.attention["name"], -cache["difference"]
    above = next_above(config, config.attention)
    why = (
        f": its next choice, {', '.join(f'{key}={value}' for key, value in above[0].items())}, has {above[1]:,}"
        if above
        else ""
    )
    told = (
        f"{name} of model={config.model.name} has {below:.0%} less cache than the budget of {cache['target']:,} bytes "
        f"per token{why}"
    )
    nearer = _nearer(config, cache["difference"], set(report["changed"]))
    if nearer is None:
        return f"warning: {told}"
    key, value, difference = nearer
    reached = "meets it" if difference > -0.0005 else f"comes within {-difference:.1%} of it"
    return f"warning: {told}; attention={name} attention.{key}={value} {reached}"


def _nearer(config: Config, now: float, changed: set[str]) -> tuple[str, int, float] | None:
    """The key, its value and the difference it leaves: of those within FAR the smallest change, of the width first;
    else the one that comes nearest, where it halves the distance."""
    best = None
    for key, value in _candidates(config, changed):
        difference = _difference(config, key, value)
        if difference is not None and difference >= -FAR:
            return key, value, difference
        if difference is not None and difference >= now / 2 and (best is None or difference > best[2]):
            best = key, value, difference
    return best


def _candidates(config: Config, changed: set[str]) -> list[tuple[str, int]]:
    found = []
    for key, unit in KEYS.items():
        before = config.attention.get(key)
        if isinstance(before, int) and f"attention.{key}" not in changed:
            values = (value for value in range(unit, 2 * before, unit) if 0 < abs(value - before) <= LARGEST * before)
            found += [(key, value) for value in sorted(values, key=lambda value: abs(value - before))[:TRIED]]
    return found


def _difference(config: Config, key: str, value: int) -> float | None:
    """From the budget with that value; None where no shape meets the targets."""
    changed = replace(config, attention=config.attention | {key: value})
    try:
        if config.match.by != "num_attention_heads":  # which does not change the cache: half of the work tells it
            alone = replace(changed, match=replace(config.match, params=None, reference=None))
            if (difference := _of_cache(matched(alone)[1])) < -FAR:
                return difference
        return _of_cache(matched(changed)[1])
    except ConfigError:
        return None


def _of_cache(report: dict | None) -> float:
    """0 where the cache has no budget."""
    return report["kv_cache"]["difference"] if report and report["kv_cache"] else 0.0
