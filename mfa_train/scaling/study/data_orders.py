"""Which runs were trained on the same data in the same order, and why two variants have no pairs: the true reason."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from mfa_train.scaling.study.read_run import corpus_of
from mfa_train.scaling.study.runs import PARAMS_WITHIN, DataOrder, Run

Orders = Mapping[str, set[DataOrder]]
"""By variant."""

SHARED: dict[str, Callable[[Run], Hashable]] = {
    "a size": lambda run: run.size,
    "a token budget": lambda run: f"{run.tokens:.3g}",
    "a seed": lambda run: run.seed,
    "model.initialization.draw": lambda run: run.order and run.order.draw,
    "their data": lambda run: run.order,
    "the held-out windows": lambda run: run.evaluated_on and run.evaluated_on.windows,
}
"""What the two runs of a pair have in common, beside their parameters."""


def of_one_corpus(used: list[Run]) -> None:
    """A run that holds no fingerprint of its tokenizer, among others that do, is taken to be of the corpus of those
    with its data.path; where there is none such, or several, it is left out."""
    of_path: dict[str, set[str]] = defaultdict(set)
    for run in used:
        if run.config and run.trace["tokenizer"] != corpus_of(run.config):
            of_path[corpus_of(run.config)].add(run.trace["tokenizer"])
    if not of_path:
        return
    for run in used:
        if run.order and run.evaluated_on and run.config and run.trace["tokenizer"] == corpus_of(run.config):
            known = of_path[corpus_of(run.config)]
            if len(known) != 1:
                run.excluded = "it holds no fingerprint of its data, and no other run tells what its data.path was"
                continue
            (tokenizer,) = known
            run.order = run.order._replace(tokenizer=tokenizer)
            run.evaluated_on = run.evaluated_on._replace(tokenizer=tokenizer)


def say_orders(runs: Iterable[Run]) -> list[str]:
    """What is said of variants that were not trained on the same data orders, each held against the first of those
    that are compared."""
    orders: dict[str, set[DataOrder]] = defaultdict(set)
    left_out: dict[str, set[DataOrder]] = defaultdict(set)
    for run in runs:
        if run.evaluated_on and run.order:
            (orders if run.excluded is None else left_out)[run.variant].add(run.order)
    if not orders:
        return []
    base, *others = orders
    return [_orders_differ(name, base, orders, left_out) for name in others if orders[name] != orders[base]]


def _orders_differ(name: str, base: str, orders: Orders, left_out: Orders) -> str:
    """What is said of the variant `name`, whose orders are not those of the variant `base`."""
    mine, theirs = orders[name], orders[base]
    apart = []
    if {order.corpus for order in mine} != {order.corpus for order in theirs}:
        apart.append("corpus")
    if {order.sequence_length for order in mine} != {order.sequence_length for order in theirs}:
        apart.append("sequence length")
    if {order.schedule for order in mine} != {order.schedule for order in theirs}:
        apart.append("training.sequence_schedule")
    if {order.draw for order in mine}.isdisjoint(order.draw for order in theirs):
        apart.append("model.initialization.draw")
    seeds = {each: {order.seed for order in orders[each]} for each in (name, base)}
    notice = f"{name} and {base} were not trained on the same data orders"
    if apart:
        return f"{notice} ({' and '.join(apart)} differ): only runs of one order are compared as pairs"
    if not seeds[name] & seeds[base]:
        notice += (
            f" (seeds {_listed(seeds[name])} and {_listed(seeds[base])}): only runs of one order are compared as pairs"
        )
    else:
        notice = (
            f"{name} has runs of seeds {_listed(seeds[name])}, {base} of {_listed(seeds[base])}: pairs are of the "
            "seeds that both have"
        )
    for one, other in ((name, base), (base, name)):
        if lost := (seeds[other] - seeds[one]) & {order.seed for order in left_out[one]}:
            notice += f"; left out are runs of {one} of seeds {_listed(lost)}"
    return notice


def why_no_pairs(variants: dict[str, list[Run]], left_out: int) -> str:
    """Of two and more variants, none of which have pairs; `left_out` is how many runs of the study are."""
    if not any(run.order for runs in variants.values() for run in runs):
        return "no run says its seed (in a CSV the column seed): no paired verdicts"
    beside = f" ({left_out} runs are left out)" if left_out else ""
    shared = ""
    parts: list[Callable[[Run], Hashable]] = []
    for what, part in SHARED.items():
        parts.append(part)
        shared = f"{shared} and {what}" if shared else what
        keys = [{tuple(one(run) for one in parts) for run in runs if run.order} for runs in variants.values()]
        if not any(a & b for a, b in itertools.combinations(keys, 2)):
            return f"no two variants share {shared}{beside}: no paired verdicts"
    return (
        f"no two variants have parameters within {PARAMS_WITHIN:.0%} of each other at a size{beside}: no paired "
        "verdicts; match.reference=mha matches them"
    )


def _listed(seeds: set) -> str:
    known = sorted(map(str, seeds), key=lambda seed: (len(seed), seed))
    return ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
