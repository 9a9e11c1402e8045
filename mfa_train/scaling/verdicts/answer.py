"""The answer of a comparison in at most three sentences, made from its verdicts.

What is said of a variant, held against the reference over all the units that both have:

- *better*, *worse*: p below 0.05, corrected for the number of pairs of variants (paired.py);
- *level*: not so, and the interval, corrected for as many pairs, leaves less than `LEVEL_WITHIN` of the loss either
  way;
- *open*: neither is shown. How many more seeds would show the difference, were it as large as measured, is told by the
  spread from seed to seed that was measured (enough.py); not where the difference changes with the size (by_size.py):
  then it is told of each.

Of the others a variant is beaten where another with no more cache is shown to be better.
"""

import math

from scipy.special import stdtrit

from mfa_train.scaling.verdicts.by_size import order_changes, sizes_differ
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, SHOWN
from mfa_train.scaling.verdicts.paired import is_shown
from mfa_train.scaling.verdicts.said import BETTER, LEVEL, LEVEL_WITHIN, OPEN, SAME_CACHE, WORSE
from mfa_train.scaling.verdicts.sentences import told_beaten, told_not_shown, told_shown

FEW_VARIANTS = 4
"""Of so few every pair that is shown is told."""


def answer(
    verdicts: list[dict],
    reference: str,
    losses: dict[str, float],
    variants: int,
    why_no_pairs: str = "",
    sizes: dict[str, str] | None = None,
) -> dict:
    """{sentences, against, beaten}. `against` holds a row for each variant that has pairs with the reference (what is
    said of it, by how much, and of those that are open `more_seeds`), `beaten` a row for each that another with no
    more cache is shown to beat. `losses` are the variants' mean losses, `sizes` the sizes' names."""
    if not verdicts:
        nothing = "there is one variant" if variants < 2 else why_no_pairs or "no two variants have runs in common"
        return {"sentences": [f"Nothing can be held against another: {nothing}."], "against": [], "beaten": []}
    against = [
        _against(verdict, reference, LEVEL_WITHIN * losses[reference], len(verdicts), sizes or {})
        for verdict in verdicts
        if reference in (verdict["a"], verdict["b"])
    ]
    beaten = _beaten(verdicts, reference)
    between = _between(verdicts, reference, beaten) if variants <= FEW_VARIANTS else []
    sentences = [told_shown(against, reference), told_beaten(beaten, between), told_not_shown(against, reference)]
    return {"sentences": [one for one in sentences if one], "against": against, "beaten": beaten}


def _against(verdict: dict, reference: str, margin: float, pairs: int, sizes: dict[str, str]) -> dict:
    """The verdict as said of the other variant, held against the reference."""
    other, sign = (verdict["b"], -1) if verdict["a"] == reference else (verdict["a"], 1)
    ratio = verdict["kv_ratio"]
    row = {
        "variant": other,
        "said": OPEN,
        "difference": _turned(verdict["difference"], sign),
        "difference_at_equal_flops": _turned(verdict["difference_at_equal_flops"], sign),
        "shown_at_equal_flops": is_shown(verdict, "_at_equal_flops"),
        "p_holm": verdict["p_holm"],
        "kv_ratio": ratio if ratio is None or sign > 0 else 1 / ratio,
        "seeds": verdict["seeds"],
        "spread": verdict["spread"],
        "within_sizes": verdict["within_sizes"],
        "sizes_differ": sizes_differ(verdict),
        "order_changes": order_changes(verdict),
        "by_size": [
            {"size": sizes.get(row["size"], row["size"]), "difference": sign * row["difference"]}
            for row in verdict["by_size"]
        ],
        "more_seeds": verdict["more_seeds"],
    }
    if is_shown(verdict):
        row["said"] = BETTER if row["difference"]["value"] < 0 else WORSE
    elif verdict["seeds"] >= LEAST_SEEDS and _within(verdict, margin, pairs):
        row["said"] = LEVEL
    return row


def _within(verdict: dict, margin: float, pairs: int) -> bool:
    """Whether the interval, corrected for the number of pairs, lies within the margin either way."""
    units = verdict["units"]
    half = float(stdtrit(units - 1, 1 - SHOWN / 2 / pairs)) * verdict["spread"] / math.sqrt(units)
    return abs(verdict["difference"]["value"]) + half <= margin


def _turned(found: dict | None, sign: int) -> dict | None:
    """A difference, or its negative."""
    if found is None or sign > 0:
        return found
    return {
        "value": -found["value"],
        "low": None if found["high"] is None else -found["high"],
        "high": None if found["low"] is None else -found["low"],
    }


def _beaten(verdicts: list[dict], reference: str) -> list[dict]:
    """Of each variant but the reference that another with no more cache is shown to beat, the one by which it is beaten
    most."""
    found: dict[str, dict] = {}
    for row in _losers(verdicts):
        known = row["variant"] != reference and row["kv_ratio"] is not None and row["kv_ratio"] <= SAME_CACHE
        if known and (row["variant"] not in found or found[row["variant"]]["behind"] < row["behind"]):
            found[row["variant"]] = row
    return sorted(found.values(), key=lambda row: row["behind"])


def _between(verdicts: list[dict], reference: str, beaten: list[dict]) -> list[dict]:
    """Other pairs without the reference that are shown to differ."""
    return [row for row in _losers(verdicts) if reference not in (row["variant"], row["by"]) and row not in beaten]


def _losers(verdicts: list[dict]) -> list[dict]:
    """Of each pair that is shown to differ, the worse, by whom it is beaten, by how much, and how many times its cache
    that one has."""
    found = []
    for verdict in filter(is_shown, verdicts):
        first, ratio = verdict["difference"]["value"] < 0, verdict["kv_ratio"]
        by, loser = (verdict["a"], verdict["b"]) if first else (verdict["b"], verdict["a"])
        behind = abs(verdict["difference"]["value"])
        ratio = ratio if ratio is None or first else 1 / ratio
        found.append({"variant": loser, "by": by, "behind": behind, "kv_ratio": ratio})
    return found
