"""Loss against KV bytes per token: the project's question as a picture.

A cell is a size and a token budget that at least two variants were trained at. Its losses are measured: means over
seeds, with Student's interval where there are two or more. At equal training FLOPs each variant is moved along its own
fitted law to the tokens that the reference's FLOPs would have bought it.
"""

from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.bootstrap import LEVEL, interval, spread, unit_weights
from mfa_train.scaling.fits import VariantFit
from mfa_train.scaling.runs import Run

Cells = dict[tuple[str, float], dict[str, list[Run]]]


def cells_of(runs: list[Run]) -> Cells:
    """{(size, tokens): {variant: runs}}, smallest first; token budgets within a percent are one."""
    cells: Cells = defaultdict(lambda: defaultdict(list))
    for run in runs:
        cells[run.size, float(f"{run.tokens:.2g}")][run.variant].append(run)
    return dict(
        sorted(
            cells.items(),
            key=lambda cell: (np.mean([run.params for runs in cell[1].values() for run in runs]), cell[0][1]),
        )
    )


def loss_over_kv(runs: list[Run], fits: dict[str, VariantFit], reference: str) -> list[dict]:
    """A row for each cell, accounting and variant whose cache is known; `on_frontier`: no other has a cache
    as small and a lower loss."""
    rows = []
    for (size, _), members in cells_of([run for run in runs if run.kv_bytes_per_token]).items():
        if len(members) < 2:
            continue
        base = members.get(reference) or next(iter(members.values()))
        base_name = base[0].variant
        for accounting in ("parameters", "flops"):
            found = [row for name, own in members.items() if (row := _row(name, own, base, fits[name], accounting))]
            for row in found:
                row |= {
                    "size": size,
                    "reference": base_name,
                    "on_frontier": not any(
                        other["kv_bytes_per_token"] <= row["kv_bytes_per_token"]
                        and other["loss"]["value"] < row["loss"]["value"]
                        for other in found
                    ),
                }
            rows += found if len(found) > 1 else []
    return rows


def kv_at_equal_loss(rows: list[dict], attentions: dict[str, str]) -> list[dict]:
    """KV bytes an attention with several budgets needs for the loss another variant has, interpolated in log KV.

    `attentions` names each variant's. Losses outside the attention's own give no row. The interval is the bootstrap's over
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
            losses = [row["loss"]["value"] for row in family]
            sizes = np.log([row["kv_bytes_per_token"] for row in family])
            for other in members if len(family) > 1 and (np.diff(sizes) < 0).all() else []:
                if attentions[other["variant"]] != attention and losses[0] <= other["loss"]["value"] <= losses[-1]:
                    needed = _log_kv(other["loss"]["value"], losses, sizes)
                    draws = _draws_of_log_kv(other, family, sizes)
                    whole = interval(needed, needed + draws) if draws is not None else {"value": needed, "low": None,
                                                                                        "high": None}
                    bytes_needed = {key: value if value is None else float(np.exp(value)) for key, value in whole.items()}
                    found.append({"accounting": accounting, "size": size, "cell_tokens": tokens, "attention": attention,
                                  "variant": other["variant"], "kv_bytes_needed": bytes_needed,
                                  "kv_bytes_per_token": other["kv_bytes_per_token"],
                                  "ratio": {key: value and value / other["kv_bytes_per_token"]
                                            for key, value in bytes_needed.items()}})
    return found


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
    own, *theirs = [row["loss"]["value"] + (weights - 1 / len(seeds)) @ np.array([row["by_seed"][seed] for seed in seeds])
                    for row in (other, *family)]
    drawn = np.array([_log_kv(loss, list(losses), sizes) for loss, losses in zip(own, np.stack(theirs, axis=1))])
    at = _log_kv(other["loss"]["value"], [row["loss"]["value"] for row in family], sizes)
    return (drawn - at) * spread(len(seeds), 1)


def _row(name: str, own: list[Run], base: list[Run], fit: VariantFit, accounting: str) -> dict | None:
    params, tokens, kv = (
        float(np.mean([getattr(run, key) for run in own])) for key in ("params", "tokens", "kv_bytes_per_token")
    )
    losses, moved = np.array([run.loss for run in own]), tokens
    if accounting == "flops":
        if not all(run.flops for run in own + base):
            return None
        ratio = float(np.mean([run.flops for run in base]) / np.mean([run.flops for run in own]))
        if abs(np.log(ratio)) > 1e-4:
            if fit.law is None:
                return None
            moved = tokens * ratio
            losses = losses + fit.law(params, moved) - fit.law(params, tokens)
    half = (
        stats.t.ppf((1 + LEVEL) / 2, len(losses) - 1) * losses.std(ddof=1) / len(losses) ** 0.5
        if len(losses) > 1
        else None
    )
    mean, by_seed = float(losses.mean()), defaultdict(list)
    for run, loss in zip(own, losses):
        by_seed[str(run.seed)].append(float(loss))
    return {"accounting": accounting, "variant": name, "params": params, "tokens": moved, "cell_tokens": tokens,
            "kv_bytes_per_token": kv, "runs": [run.name for run in own],
            "by_seed": {seed: float(np.mean(found)) for seed, found in by_seed.items()},
            "loss": {"value": mean, "low": half and mean - half, "high": half and mean + half}}
