"""What is found of the variants (answer.py) in words: one sentence each for what is shown, what is beaten, and what is
level or not shown."""

import math
import re
from collections.abc import Callable

from mfa_train.scaling.laws.bootstrap import ROUNDING
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, MOST_SEEDS
from mfa_train.scaling.verdicts.said import BETTER, LEVEL, LEVEL_WITHIN, OPEN, SAME_CACHE, WORSE

SHARE = r" ([\d.]+) of MHA's KV"
"""In a variant's name, a regular expression: its cache."""
MOST_NAMED, MOST_SIZES = 6, 3
"""Variants in one sentence, and sizes of one of them."""


def told_shown(against: list[dict], reference: str) -> str:
    """What is shown better or worse than the reference."""
    if not against:
        return f"No variant has runs in common with {label(reference)}."
    if all(row["seeds"] < LEAST_SEEDS for row in against):
        return "One seed shows nothing: its runs have one data order at every size."
    groups = {said: sorted((row for row in against if row["said"] == said), key=_size) for said in (BETTER, WORSE)}
    few = sum(map(len, groups.values())) <= 3
    told = {said: _listed(rows, lambda row: _by(row, reference, few)) for said, rows in groups.items()}
    if not told[BETTER] and not told[WORSE]:
        return f"No variant is shown to be better or worse than {label(reference)}."
    if not told[BETTER]:
        return f"No variant is shown to be better than {label(reference)}; shown to be worse: {told[WORSE]}."
    behind = f"; shown to be worse: {told[WORSE]}" if told[WORSE] else ""
    return f"Shown to be better than {label(reference)}: {told[BETTER]}{behind}."


def _by(row: dict, reference: str, whole: bool) -> str:
    """As: mfa (0.17 of mha's cache) by 0.0066 [0.004, 0.009]."""
    found, equal = row["difference"], row["difference_at_equal_flops"]
    told = f"{_named(row, reference)} by {_plain(abs(found['value']))}"
    if whole and found["low"] is not None:
        low, high = sorted((abs(found["low"]), abs(found["high"])))
        told += f" [{_plain(low)}, {_plain(high)}]"
    if equal and row["shown_at_equal_flops"] and equal["value"] * found["value"] < 0:
        told += (
            f" (but {WORSE if equal['value'] > 0 else BETTER} by {_plain(abs(equal['value']))} at equal training FLOPs)"
        )
    if row["order_changes"]:
        turned = [one for one in row["by_size"] if one["difference"] * found["value"] < 0]
        told += f" (but {', '.join(map(_at_size, turned))})"
    elif row["sizes_differ"]:
        alike = all(one["difference"] * found["value"] > 0 for one in row["by_size"])
        told += f" ({_ends(row['by_size'], _amount_at_size if alike else _at_size)})"
    return told


def told_beaten(beaten: list[dict], between: list[dict]) -> str:
    """Which of the others are beaten at no more cache, and by whom; and which are `between` them."""
    parts = []
    if beaten:
        told = _listed(beaten, lambda row: f"{label(row['variant'])} (by {label(row['by'])}, {_plain(row['behind'])})")
        parts.append(f"not worth their cache, since another with no more of it is shown to be better: {told}")
    if between:
        parts.append(f"shown between the others: {_listed(between, _pair)}")
    return _sentence(parts)


def _pair(row: dict) -> str:
    """As: mfa is better than mla by 0.048 with 1.1 times its cache."""
    ratio = row["kv_ratio"]
    cache = "" if ratio is None or ratio == 1 else f" with {ratio:.2g} times its cache"
    return f"{label(row['by'])} is better than {label(row['variant'])} by {_plain(row['behind'])}{cache}"


def _sentence(parts: list[str]) -> str:
    whole = "; ".join(parts)
    return whole and f"{whole[0].upper()}{whole[1:]}."


def told_not_shown(against: list[dict], reference: str) -> str:
    """What is level with the reference, and what is neither: with the seeds that would tell, or by size where the
    sizes differ."""
    level = [row for row in against if row["said"] == LEVEL]
    undecided = sorted((row for row in against if row["said"] == OPEN), key=lambda row: row["more_seeds"] or math.inf)
    of_all = [row for row in undecided if not row["sizes_differ"]]
    turning = [row for row in undecided if row["order_changes"]]
    growing = [row for row in undecided if row["sizes_differ"] and not row["order_changes"]]
    parts = []
    if level:
        told = _listed(level, lambda row: _named(row, reference))
        parts.append(f"level with {label(reference)} to within {LEVEL_WITHIN:.1%} of the loss: {told}")
    if of_all:
        told = _listed(of_all, lambda row: f"{_named(row, reference)}, {_as_measured(row)}")
        known = any(row["more_seeds"] is not None or row["within_sizes"] is None for row in of_all[:MOST_NAMED])
        would = "; so many more seeds would show it, were the difference as large as measured" if known else ""
        parts.append(f"not shown either way: {told}{would}")
    for rows, what in ((turning, "order"), (growing, "difference")):
        if rows:
            told = _listed(rows, lambda row: f"{_named(row, reference)}, {_by_size(row['by_size'])}")
            parts.append(f"not shown over all sizes, and the {what} changes with the size: {told}")
    return _sentence(parts)


def _as_measured(row: dict) -> str:
    value = row["difference"]["value"]
    side = WORSE if value > 0 else BETTER
    told = "the same" if not value else f"{_plain(abs(value))} {side}"
    if row["more_seeds"] is not None:
        return f"{told} ({row['more_seeds']} more)"
    if row["within_sizes"] is None:
        return f"{told} ({max(1, LEAST_SEEDS - row['seeds'])} more at least)"
    return f"{told} ({'the same in every unit' if row['spread'] <= ROUNDING else f'more than {MOST_SEEDS}'})"


def _by_size(rows: list[dict]) -> str:
    """As: 0.02 better at 280k, 0.25 worse at 570k; of many sizes the two ends."""
    if len(rows) <= MOST_SIZES:
        return ", ".join(map(_at_size, rows))
    return _ends(rows, _at_size)


def _ends(rows: list[dict], told: Callable[[dict], str]) -> str:
    """As: from 0.02 better at 280k to 0.25 worse at 570k."""
    toward = math.copysign(1, sum(row["difference"] for row in rows))
    least, *_, most = sorted(rows, key=lambda row: toward * row["difference"])
    return f"from {told(least)} to {told(most)}"


def _amount_at_size(row: dict) -> str:
    return f"{_plain(abs(row['difference']))} at {row['size']}"


def _at_size(row: dict) -> str:
    return f"{_plain(abs(row['difference']))} {WORSE if row['difference'] > 0 else BETTER} at {row['size']}"


def _listed(rows: list[dict], told: Callable[[dict], str]) -> str:
    named = [told(row) for row in rows[:MOST_NAMED]]
    if (more := len(rows) - MOST_NAMED) > 0:
        named.append(f"{more} others")
    return "; ".join(named) if any("," in one for one in named) else ", ".join(named)


def _named(row: dict, reference: str) -> str:
    """With its share of the reference's cache, where its name does not tell one."""
    name, ratio = label(row["variant"]), row["kv_ratio"]
    if ratio is None or name != row["variant"] or 1 / SAME_CACHE < ratio < SAME_CACHE:
        return name
    return f"{name} ({ratio:.3g} of {label(reference)}'s cache)"


def label(variant: str) -> str:
    """The name of a variant, short: mfa 0.125×KV for one with 0.125 of MHA's KV."""
    return re.sub(SHARE, r" \1×KV", variant)


def by_laws(at_budgets: list[dict], laws: dict[str, dict], reference: str) -> str:
    """What laws say where there are no pairs: of several variants the differences at the largest budget, of one its
    law; empty without a law."""
    rows = [row for row in at_budgets if row["accounting"] == "parameters" and row["difference"]]
    if rows:
        compute = max(row["compute"] for row in rows)
        told = _listed(
            [row for row in rows if row["compute"] == compute],
            lambda row: f"{label(row['variant'])} {_interval(row['difference'], '+.2g')}",
        )
        return f"By their laws, each at its best size for {compute:.3g} FLOPs, losses less {reference}'s: {told}."
    if len(laws) == 1 and "alpha" in (law := next(iter(laws.values()))):
        told = ", ".join(f"{key} {_interval(law[key], '.5g')}" for key in ("E", "A", "alpha", "B", "beta"))
        return f"Its law: {told}."
    return ""


def _interval(found: dict, form: str) -> str:
    value, low, high = ("-" if found[key] is None else f"{found[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def why_no_law(laws: dict[str, dict]) -> str:
    """Of the variants that no law could be fitted to, and why, each reason once; empty where all have one."""
    without = {name: law["reason"] for name, law in laws.items() if law["method"] == "none"}
    if not without:
        return ""
    reasons: dict[str, list[str]] = {}
    for name, reason in without.items():  # the numbers differ from variant to variant: they stand with the laws
        reasons.setdefault(re.sub(r":? -?[\d.]+ \[[^]]*\]", "", reason.split("; ")[0]), []).append(label(name))
    every = len(without) == len(laws)

    def told(reason: str, names: list[str]) -> str:
        if every and len(reasons) == 1:
            return reason
        return f"{reason} ({', '.join(names) if len(names) < MOST_NAMED else f'{len(names)} variants'})"

    whole = "; ".join(told(reason, names) for reason, names in reasons.items())
    return f"No law could be fitted{'' if every else f' to {len(without)} of {len(laws)} variants'}: {whole}."


def _size(row: dict) -> float:
    return abs(row["difference"]["value"])


def _plain(value: float) -> str:
    return f"{value:.2g}"
