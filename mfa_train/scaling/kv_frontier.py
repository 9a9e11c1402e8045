"""Loss against KV bytes per token: the project's question as a picture.

A cell is a size and a token budget that at least two variants were trained at. Its losses are measured: means over
seeds, with Student's interval where there are two or more. At equal training FLOPs each variant is moved along its own
fitted law to the tokens that the reference's FLOPs would have bought it.
"""

from collections import defaultdict

import numpy as np
from scipy import stats

from mfa_train.scaling.bootstrap import LEVEL
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

    `attentions` names each variant's. Losses outside the attention's own give no row.
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
                    needed = float(np.exp(np.interp(other["loss"]["value"], losses, sizes)))
                    found.append({"accounting": accounting, "size": size, "cell_tokens": tokens, "attention": attention,
                                  "variant": other["variant"], "kv_bytes_needed": needed,
                                  "kv_bytes_per_token": other["kv_bytes_per_token"],
                                  "ratio": needed / other["kv_bytes_per_token"]})
    return found


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
    mean = float(losses.mean())
    return {"accounting": accounting, "variant": name, "params": params, "tokens": moved, "cell_tokens": tokens,
            "kv_bytes_per_token": kv, "runs": [run.name for run in own],
            "loss": {"value": mean, "low": half and mean - half, "high": half and mean + half}}
