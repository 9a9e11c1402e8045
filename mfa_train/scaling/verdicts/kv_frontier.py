"""Loss against KV bytes per token: the project's question as a picture.

A cell is a size and a token budget that at least two variants were trained at, with parameters as many as the
reference's. Its losses are measured: means over seeds, with Student's interval where there are two or more. At equal
training FLOPs each variant has the tokens that the reference's FLOPs would have bought it: its loss there is that
between its own token budgets, seed by seed, or else its law's.
"""

import itertools
from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.laws.bootstrap import LEVEL, ROUNDING, interval, spread, unit_weights
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.study.runs import FLOPS_WITHIN, PARAMS_WITHIN, TOKENS_WITHIN, Run
from mfa_train.scaling.verdicts.measured import Measured

Cells = dict[tuple[str, float], dict[str, list[Run]]]
UNDETERMINED = np.log(100)
"""Of the KV bytes for a loss, the width of an interval that says nothing."""


def cells_of(runs: list[Run]) -> Cells:
    """{(size, tokens): {variant: runs}}, smallest first."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    budget: dict[str | None, float] = {}
    for run in sorted(runs, key=lambda run: run.tokens):
        if run.tokens > budget.get(run.size, 0) * (1 + TOKENS_WITHIN):
            budget[run.size] = run.tokens
        cells[run.size, budget[run.size]][run.variant].append(run)
    return dict(
        sorted(
            cells.items(),
            key=lambda cell: (np.mean([run.params for runs in cell[1].values() for run in runs]), cell[0][1]),
        )
    )


def loss_over_kv(runs: list[Run], fits: dict[str, VariantFit], reference: str) -> tuple[list[dict], list[str]]:
    """A row for each cell, accounting and variant whose cache is known; and what is to be said of those left out.

    `on_frontier`: whether no other with a cache as small is shown to have a lower loss; None where only one seed says
    so.
    """
    rows, unmatched, unreached = [], set(), set()
    measured = {name: Measured([run for run in runs if run.variant == name]) for name in fits}
    for (size, tokens), members in cells_of([run for run in runs if run.kv_bytes_per_token]).items():
        base = members.get(reference) or next(iter(members.values()))
        matched = {
            name: own
            for name, own in members.items()
            if abs(np.log(_mean(own, "params") / _mean(base, "params"))) <= PARAMS_WITHIN
        }
        unmatched |= {(name, size) for name in members.keys() - matched.keys()}
        for accounting in ("parameters", "flops"):
            found = [
                row
                for name, own in matched.items()
                if (row := _row(name, own, base, measured[name], fits[name], accounting))
            ]
            unreached |= {
                (name, size, tokens)
                for name in matched.keys() - {row["variant"] for row in found}
                if all(run.flops for run in matched[name] + base)
            }
            if len(found) > 1:
                rows += [row | {"size": size, "cell_tokens": tokens, "reference": base[0].variant} for row in found]
    _mark_frontier(rows)
    return rows, _of_unreached(unreached) + [
        f"{name} at size {size}: parameters differ from the reference's by more than {PARAMS_WITHIN:.0%}, so it is "
        "not among "
        "the losses over KV"
        for name, size in sorted(unmatched)
    ]


def _of_unreached(cells: set[tuple[str, str, float]]) -> list[str]:
    """What is said of variants that have no loss at the reference's FLOPs, once for each set of them."""
    at: dict[tuple, list[str]] = defaultdict(list)
    for size, tokens in sorted({cell[1:] for cell in cells}):
        names = tuple(sorted(name for name, *where in cells if where == [size, tokens]))
        at[names].append(f"{size} ({tokens:.3g} tokens)")
    return [
        f"{', '.join(names)}: not among the losses over KV at equal FLOPs at size {', '.join(where)}; neither their "
        "own token budgets nor a law reach to the reference's FLOPs"
        for names, where in at.items()
    ]


def _mark_frontier(rows: list[dict]) -> None:
    """Sets each row's `on_frontier`.

    `other` is shown to have a lower loss where the mean over shared seeds of its difference is below zero by more than
    Student's quantile, and there are two and more. How much the difference varies with the seed is pooled over the
    sizes, each at its budget of the same rank (of a size alone, two seeds would say next to nothing); the mean is the
    cell's own.
    """
    cells: dict[tuple, dict[str, dict]] = defaultdict(dict)
    budgets = defaultdict(set)
    for row in rows:
        cells[row["accounting"], row["size"], row["cell_tokens"]][row["variant"]] = row
        budgets[row["size"]].add(row["cell_tokens"])
    rank = {
        (size, tokens): index for size, own in budgets.items() for index, tokens in enumerate(sorted(own, reverse=True))
    }
    apart: dict[tuple, list[np.ndarray]] = defaultdict(
        list
    )  # (accounting, rank, other, one): a size's differences each
    for (accounting, size, tokens), cell in cells.items():
        for one, other in itertools.permutations(cell, 2):
            apart[accounting, rank[size, tokens], other, one].append(_apart(cell[other], cell[one]))
    for (accounting, size, tokens), cell in cells.items():
        for one, row in cell.items():
            shown = [
                _shown_lower(cell[other], row, apart[accounting, rank[size, tokens], other, one])
                for other in cell
                if other != one and cell[other]["kv_bytes_per_token"] <= row["kv_bytes_per_token"]
            ]
            row["on_frontier"] = False if True in shown else None if None in shown else True


def _apart(other: dict, one: dict) -> np.ndarray:
    """The loss of `other` less that of `one`, of each seed that both have."""
    shared = sorted(other["by_seed"].keys() & one["by_seed"].keys())
    return np.array([other["by_seed"][seed] - one["by_seed"][seed] for seed in shared])


def _shown_lower(other: dict, one: dict, of_sizes: list[np.ndarray]) -> bool | None:
    """Whether the loss of `other` is; the variance is pooled over `of_sizes`. None where it is lower and cannot be
    shown to be: fewer than two seeds are shared here, or every difference is the same."""
    values = _apart(other, one)
    mean = values.mean() if len(values) else other["loss"]["value"] - one["loss"]["value"]
    if mean >= 0:
        return False
    if len(values) < 2:
        return None
    free = sum(len(own) - 1 for own in of_sizes if len(own))
    error = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in of_sizes if len(own)) / free / len(values))
    return bool(mean < -stats.t.ppf((1 + LEVEL) / 2, free) * error) if error > ROUNDING else None


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
    reason, whole = "", {"value": None, "low": None, "high": None}
    if not (np.diff(sizes) < 0).all():
        reason = "its loss does not fall with its cache"
    elif loss < losses[0]:
        reason = f"more than its largest, {family[0]['kv_bytes_per_token']:,.0f}"
    elif loss > losses[-1]:
        reason = f"less than its smallest, {family[-1]['kv_bytes_per_token']:,.0f}"
    else:
        at, draws = _log_kv(loss, losses, sizes), _draws_of_log_kv(other, family, sizes)
        whole = {"value": at, "low": None, "high": None} if draws is None else interval(at, at + draws)
        if whole["low"] is not None and whole["high"] - whole["low"] > UNDETERMINED:
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
    losses, sizes = np.asarray(losses)[order], sizes[order]
    end = int(np.clip(np.searchsorted(losses, loss), 1, len(losses) - 1))
    step = losses[end] - losses[end - 1]
    share = (loss - losses[end - 1]) / step if step else 0.0
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


def _mean(runs: list[Run], key: str) -> float:
    return float(np.mean([getattr(run, key) for run in runs]))


def _row(
    name: str, own: list[Run], base: list[Run], measured: Measured, fit: VariantFit, accounting: str
) -> dict | None:
    params, tokens, kv = (_mean(own, key) for key in ("params", "tokens", "kv_bytes_per_token"))
    losses, moved, by = np.array([run.loss for run in own]), tokens, "measured"
    if accounting == "flops":
        if not all(run.flops for run in own + base):
            return None
        ratio = _mean(base, "flops") / _mean(own, "flops")
        if abs(np.log(ratio)) > FLOPS_WITHIN:
            moved = tokens * ratio
            found = [measured.loss(run, run.tokens * ratio) for run in own]
            if None not in found:
                losses = np.array(found)
            elif fit.law is not None:
                by, losses = "law", losses + fit.law(params, moved) - fit.law(params, tokens)
            else:
                return None
    mean, by_seed, low, high = float(losses.mean()), defaultdict(list), None, None
    if len(losses) > 1:
        half = stats.t.ppf((1 + LEVEL) / 2, len(losses) - 1) * losses.std(ddof=1) / len(losses) ** 0.5
        low, high = mean - half, mean + half
    for run, loss in zip(own, losses):
        by_seed[str(run.seed)].append(float(loss))
    return {
        "accounting": accounting,
        "variant": name,
        "params": params,
        "tokens": moved,
        "by": by,
        "kv_bytes_per_token": kv,
        "runs": [run.name for run in own],
        "by_seed": {seed: float(np.mean(found)) for seed, found in by_seed.items()},
        "loss": {"value": mean, "low": low, "high": high},
    }
