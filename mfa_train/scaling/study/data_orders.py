"""Which runs were trained on the same data in the same order, and why two variants have no pairs: the true reason."""

import itertools
from collections import defaultdict
from collections.abc import Iterable

from mfa_train.scaling.study.runs import PARAMS_WITHIN, Run, corpus_of


def of_one_corpus(used: list[Run]) -> None:
    """A run that holds no fingerprint of its tokenizer, among others that do, is taken to be of the corpus of those
    with its data.path; where there is none such, or several, it is left out."""
    of_path: dict[str, set] = defaultdict(set)
    for run in used:
        if run.config and run.trace["tokenizer"] != corpus_of(run.config):
            of_path[corpus_of(run.config)].add(run.trace["tokenizer"])
    if not of_path:
        return
    for run in used:
        if run.config and run.trace["tokenizer"] == corpus_of(run.config):
            found = of_path[corpus_of(run.config)]
            if len(found) != 1:
                run.excluded = "it holds no fingerprint of its data, and no other run tells what its data.path was"
                continue
            (tokenizer,) = found
            run.order, run.evaluated_on = (tokenizer, *run.order[1:]), (tokenizer, *run.evaluated_on[1:])


def say_orders(runs: Iterable[Run]) -> list[str]:
    """What is said of variants that were not trained on the same data orders, each held against the first."""
    orders: dict[str, set[tuple]] = defaultdict(set)
    left_out: dict[str, set] = defaultdict(set)
    for run in runs:
        if run.evaluated_on and run.order:
            (orders if run.excluded is None else left_out)[run.variant].add(run.order)
    first, *others = orders or [None]
    return [_orders_differ(name, first, orders, left_out) for name in others if orders[name] != orders[first]]


def _orders_differ(name: str, first: str, orders: dict[str, set[tuple]], left_out: dict[str, set[tuple]]) -> str:
    mine, theirs = orders[name], orders[first]
    apart = [
        what
        for what, part in (("corpus", slice(0, 2)), ("sequence length", slice(3, 4)))
        if {order[part] for order in mine} != {order[part] for order in theirs}
    ]
    seeds = {each: {order[2] for order in orders[each]} for each in (name, first)}
    told = f"{name} and {first} were not trained on the same data orders"
    if apart:
        return f"{told} ({' and '.join(apart)} differ): only runs of one order are compared as pairs"
    if not seeds[name] & seeds[first]:
        told += (
            f" (seeds {_listed(seeds[name])} and {_listed(seeds[first])}): only runs of one order are compared as pairs"
        )
    else:
        told = (
            f"{name} has runs of seeds {_listed(seeds[name])}, {first} of {_listed(seeds[first])}: pairs are of the "
            "seeds that "
            "both have"
        )
    for one, other in ((name, first), (first, name)):
        if lost := (seeds[other] - seeds[one]) & {order[2] for order in left_out[one]}:
            told += f"; left out are runs of {one} of seeds {_listed(lost)}"
    return told


def why_no_pairs(variants: dict[str, list[Run]], left_out: int) -> str:
    """Of two and more variants, none of which have pairs; `left_out` is how many runs of the study are."""
    if not any(run.order for runs in variants.values() for run in runs):
        return "no run says its seed (in a CSV the column seed): no paired verdicts"
    beside = f" ({left_out} runs are left out)" if left_out else ""
    shared, parts = "", []
    for what, part in (
        ("a size", lambda run: run.size),
        ("a token budget", lambda run: f"{run.tokens:.3g}"),
        ("a seed", lambda run: run.seed),
        ("their data", lambda run: run.order),
        ("the held-out windows", lambda run: run.evaluated_on and run.evaluated_on[2:]),
    ):
        parts.append(part)
        shared = f"{shared} and {what}" if shared else what
        keys = [{tuple(one(run) for one in parts) for run in runs if run.order} for runs in variants.values()]
        if not any(a & b for a, b in itertools.combinations(keys, 2)):
            return f"no two variants share {shared}{beside}: no paired verdicts"
    return (
        f"no two variants have parameters within {PARAMS_WITHIN:.0%} of each other at a size{beside}: no paired "
        "verdicts; "
        "match.reference=mha matches them"
    )


def _listed(seeds: set) -> str:
    known = sorted(map(str, seeds), key=lambda seed: (len(seed), seed))
    return ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
