"""KV bytes for the same loss: how small a cache an attention with several budgets needs to be level with another."""

from collections import defaultdict

import numpy as np

from mfa_train.scaling.laws.bootstrap import interval, spread, unit_weights

UNDETERMINED = np.log(100)
"""Of the KV bytes for a loss, the width of an interval that says nothing."""


def kv_at_equal_loss(rows: list[dict], attentions: dict[str, str]) -> list[dict]:
    """KV bytes an attention with several budgets needs for the loss another variant has, interpolated in log KV.

    `attentions` names each variant's. Where there is no answer, `reason` says why. The interval is the bootstrap's over
    seeds, the same for all variants of a cell; None where they share fewer than two.
    """
    cells = defaultdict(list)
    for row in rows:
        cells[row["accounting"], row["size"], row["cell_tokens"]].append(row)
    found = []
    for (accounting, size, tokens), members in cells.items():
        families = defaultdict(list)
        for row in members:
            families[attentions[row["variant"]]].append(row)
        for attention, family in families.items():
            family.sort(key=lambda row: row["loss"]["value"])
            for other in members if len({row["kv_bytes_per_token"] for row in family}) > 1 else []:
                if attentions[other["variant"]] == attention:
                    continue
                cell = {"accounting": accounting, "size": size, "cell_tokens": tokens}
                found.append({**cell, "attention": attention, "variant": other["variant"], **_kv_for(other, family)})
    return found


def _kv_for(other: dict, family: list[dict]) -> dict:
    """KV bytes at which the attention of `family` (rows by rising loss) has the loss of `other`, or why that is not
    known."""
    loss, losses = other["loss"]["value"], [row["loss"]["value"] for row in family]
    sizes, own = np.log([row["kv_bytes_per_token"] for row in family]), other["kv_bytes_per_token"]
    reason = ""
    whole: dict[str, float | None] = {"value": None, "low": None, "high": None}
    if not (np.diff(sizes) < 0).all():
        reason = "its loss does not fall with its cache"
    elif loss < losses[0]:
        reason = f"more than its largest, {family[0]['kv_bytes_per_token']:,.0f}"
    elif loss > losses[-1]:
        reason = f"less than its smallest, {family[-1]['kv_bytes_per_token']:,.0f}"
    else:
        at, draws = _log_kv(loss, losses, sizes), _draws_of_log_kv(other, family, sizes)
        whole = {"value": at, "low": None, "high": None} if draws is None else interval(at, at + draws)
        low, high = whole["low"], whole["high"]
        if low is not None and high is not None and high - low > UNDETERMINED:
            reason, whole = "not determined: the seeds leave it a factor of more than 100", dict.fromkeys(whole)
    needed = {key: value if value is None else float(np.exp(value)) for key, value in whole.items()}
    return {
        "kv_bytes_needed": needed,
        "kv_bytes_per_token": own,
        "ratio": {key: value and value / own for key, value in needed.items()},
        "reason": reason,
    }


def _log_kv(loss: float, losses: list[float], sizes: np.ndarray) -> float:
    """Along the straight lines between (loss, log KV), of rising losses, and on beyond their ends."""
    order = np.argsort(losses)
    rising, sizes = np.asarray(losses)[order], sizes[order]
    end = int(np.clip(np.searchsorted(rising, loss), 1, len(rising) - 1))
    step = rising[end] - rising[end - 1]
    share = (loss - rising[end - 1]) / step if step else 0.0
    return float(sizes[end - 1] + share * (sizes[end] - sizes[end - 1]))


def _draws_of_log_kv(other: dict, family: list[dict], sizes: np.ndarray) -> np.ndarray | None:
    """How far log KV moves when seeds weigh differently; None where fewer than two are shared."""
    seeds = sorted(set(other["by_seed"]).intersection(*(row["by_seed"] for row in family)))
    if len(seeds) < 2:
        return None
    weights = unit_weights([(other["size"], seed) for seed in seeds])
    weights /= weights.sum(axis=1, keepdims=True)
    # Shifted to the means over all seeds, which the value itself rests on.
    own, *theirs = [
        row["loss"]["value"] + (weights - 1 / len(seeds)) @ np.array([row["by_seed"][seed] for seed in seeds])
        for row in (other, *family)
    ]
    drawn = np.array([_log_kv(loss, list(losses), sizes) for loss, losses in zip(own, np.stack(theirs, axis=1))])
    at = _log_kv(other["loss"]["value"], [row["loss"]["value"] for row in family], sizes)
    return (drawn - at) * spread(len(seeds), 1)
