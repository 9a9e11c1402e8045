"""Loss against KV bytes per token: the project's question as a picture.

In a cell (a size and a token budget) that at least two variants were trained at, those are compared that have as many
parameters as the reference. Their losses are measured: means over seeds. At equal training FLOPs each variant has the
tokens that the reference's FLOPs would have bought it: its loss there is that between its own token budgets, seed by
seed, or else its law's.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np

from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.study.runs import FLOPS_WITHIN, PARAMS_WITHIN, Run
from mfa_train.scaling.study.size_names import count_name
from mfa_train.scaling.verdicts.cells import by_seed, cells_of, measured_rows, set_intervals
from mfa_train.scaling.verdicts.known import cache_of, flops_of, loss_of, of_one_size, params_of, tokens_of
from mfa_train.scaling.verdicts.measured import Measured
from mfa_train.scaling.verdicts.on_frontier import mark_frontier


def loss_over_kv(
    runs: list[Run], fits: dict[str, VariantFit], reference: str, sizes: dict[str, str] | None = None
) -> tuple[list[dict], list[str]]:
    """A row for each cell, accounting and variant whose cache is known, with its mark (on_frontier.py); and what is to
    be said of those left out, of sizes by their names in `sizes`."""
    rows: list[dict] = []
    unmatched: set[tuple[str, str]] = set()
    unreached: set[tuple[str, str, float]] = set()
    measured = {name: Measured([run for run in runs if run.variant == name]) for name in fits}
    cells = cells_of(runs)
    as_measured = measured_rows(cells)
    for (size, tokens), every in cells.items():
        members = {name: own for name, own in every.items() if any(run.kv_bytes_per_token for run in own)}
        if not members:
            continue
        base = members.get(reference) or next(iter(members.values()))
        matched = {name: own for name, own in members.items() if of_one_size(own, base)}
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
    set_intervals(as_measured + [row for row in rows if row["accounting"] == "flops"])
    of_cell = {(row["size"], row["cell_tokens"], row["variant"]): row for row in as_measured}
    for row in rows:
        if row["accounting"] == "parameters":
            same = of_cell[row["size"], row["cell_tokens"], row["variant"]]
            row |= {"loss": same["loss"], "spread": same["spread"]}
    mark_frontier(rows)
    sizes = sizes or {}
    return rows, _of_unreached(unreached, sizes) + [
        f"{name} at size {sizes.get(size, size)}: its parameters differ from the reference's by more than "
        f"{PARAMS_WITHIN:.0%}, so its loss is not held against the others' caches"
        for name, size in sorted(unmatched)
    ]


def _of_unreached(cells: set[tuple[str, str, float]], sizes: dict[str, str]) -> list[str]:
    """What is said of variants that have no loss at the reference's FLOPs, once for each set of them."""
    at: dict[tuple[str, ...], list[str]] = defaultdict(list)
    order = list(sizes)
    for size, tokens in sorted(
        {(size, tokens) for _, size, tokens in cells},
        key=lambda cell: (order.index(cell[0]) if cell[0] in order else len(order), cell),
    ):
        names = tuple(sorted(name for name, *where in cells if where == [size, tokens]))
        at[names].append(f"{sizes.get(size, size)} ({count_name(tokens, 3)} tokens)")
    return [
        f"at equal FLOPs {', '.join(names)} cannot be shown beside the others at size {', '.join(where)}: the "
        "reference's FLOPs lie outside the token budgets that they were trained on, and there is no law to go by"
        for names, where in at.items()
    ]


def _mean(runs: list[Run], number: Callable[[Run], float]) -> float:
    return float(np.mean([number(run) for run in runs]))


def _row(
    name: str, own: list[Run], base: list[Run], measured: Measured, fit: VariantFit, accounting: str
) -> dict | None:
    params, tokens = _mean(own, params_of), _mean(own, tokens_of)
    cache = _mean([run for run in own if run.kv_bytes_per_token], cache_of)
    losses, moved, by = np.array([loss_of(run) for run in own]), tokens, "measured"
    if accounting == "flops":
        if not all(run.flops for run in own + base):
            return None
        ratio = _mean(base, flops_of) / _mean(own, flops_of)
        if abs(np.log(ratio)) > FLOPS_WITHIN:
            moved = tokens * ratio
            found = [measured.loss(run, tokens_of(run) * ratio) for run in own]
            reached = [loss for loss in found if loss is not None]
            if len(reached) == len(found):
                losses = np.array(reached)
            elif fit.law is not None:
                by, losses = "law", losses + fit.law(params, moved) - fit.law(params, tokens)
            else:
                return None
    decode = [run.decode_flops_per_token for run in own if run.decode_flops_per_token]
    return {
        "accounting": accounting,
        "variant": name,
        "params": params,
        "tokens": moved,
        "by": by,
        "kv_bytes_per_token": cache,
        "decode_flops_per_token": float(np.mean(decode)) if len(decode) == len(own) else None,
        "runs": [run.name for run in own],
        "by_seed": by_seed(own, losses),
    }
