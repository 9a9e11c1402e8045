"""Two variants, run by run: pairs have the same size, tokens, seed, data order and held-out windows. Several runs of
one variant that share all of these are one, with their mean loss.

Runs of one size and seed share their start and their data, so their differences (at several token budgets) are averaged
first: a unit is one size and seed. Over the units: the mean difference with Student's interval, the p of the paired
t-test, and the p of the sign-flip permutation test, which assumes no normal distribution and cannot be below 2 /
2^units. Runs of one seed have one data order at every size, so one seed alone gives no verdict, however many sizes.
"""

import functools
import itertools
from collections import defaultdict
from dataclasses import replace

import numpy as np
from scipy import stats

from mfa_train.scaling.laws.bootstrap import CONFIDENCE, DRAWS, ROUNDING, SEED, finite, interval
from mfa_train.scaling.laws.fits import VariantFit
from mfa_train.scaling.laws.frontier import tokens_for
from mfa_train.scaling.study.runs import Run
from mfa_train.scaling.study.variants import settings_that_differ
from mfa_train.scaling.verdicts.by_size import by_size, sizes_differ
from mfa_train.scaling.verdicts.enough import LEAST_SEEDS, SHOWN, seeds_for
from mfa_train.scaling.verdicts.holm import corrected
from mfa_train.scaling.verdicts.known import cache_of, flops_of, loss_of, of_one_size, params_of, tokens_of
from mfa_train.scaling.verdicts.measured import Measured, difference_at_equal_flops, tokens_at_equal_loss
from mfa_train.scaling.verdicts.said import SAME_CACHE

EXACT_UNITS = 12


def verdicts(variants: dict[str, list[Run]], fits: dict[str, VariantFit]) -> list[dict]:
    """One for each two variants that have pairs; `p_holm` (and that at equal FLOPs) corrected for the number of them
    (Holm 1979)."""
    measured = {name: Measured(runs) for name, runs in variants.items()}
    keyed = {name: by_key(runs) for name, runs in variants.items()}
    found = [
        verdict
        for a, b in itertools.combinations(variants, 2)
        if (verdict := _verdict(a, b, pairs_of(keyed[a], keyed[b]), fits[b], measured))
    ]
    for kind in ("", "_at_equal_flops"):
        p = {index: one[f"p_t{kind}"] for index, one in enumerate(found) if one[f"p_t{kind}"] is not None}
        for index, value in corrected(p).items():
            found[index][f"p_holm{kind}"] = value
    not_shown = sum(not is_shown(verdict) for verdict in found)
    for verdict in found:
        verdict["says"] = _says(verdict)
        verdict["more_seeds"] = None if is_shown(verdict) else _more_seeds(verdict, not_shown)
    return found


def is_shown(verdict: dict, kind: str = "") -> bool:
    """Whether a difference is (`kind` "_at_equal_flops": there): never by one seed."""
    p = verdict[f"p_holm{kind}"]
    return verdict["seeds"] >= LEAST_SEEDS and p is not None and p < SHOWN


def _more_seeds(verdict: dict, pairs: int) -> int | None:
    """How many would show the difference, were it and its spread from seed to seed within a size as measured; `pairs`
    are those that p is corrected for. None where that is not known or more than enough.MOST_SEEDS, and where the
    difference changes with the size: seeds say nothing about that."""
    within = verdict["within_sizes"]
    if within is None or within["deviation"] <= ROUNDING or sizes_differ(verdict):
        return None
    sizes = max(1, round(verdict["units"] / verdict["seeds"]))
    needed = seeds_for(verdict["difference"]["value"], within["deviation"], sizes, pairs)
    return needed and max(1, needed - verdict["seeds"])


def settings_beside(result: list[dict], attentions: dict[str, str]) -> list[str]:
    """What is to be said where variants of two attentions differ in more than these: one line for each such set."""
    said: dict[tuple, set[str]] = {}
    for verdict in result:
        if verdict["also_differ"] and attentions[verdict["a"]] != attentions[verdict["b"]]:
            said.setdefault(tuple(verdict["also_differ"]), set()).update((verdict["a"], verdict["b"]))
    return [
        f"pairs of {', '.join(sorted(names))} differ in {', '.join(keys)} beside the attention"
        for keys, names in said.items()
    ]


def _says(verdict: dict) -> str:
    """In words, for a person; better or worse only where p, corrected for the number of pairs, is below 0.05."""
    difference = verdict["difference"]
    if verdict["units"] < 2:
        return "one size and seed: no telling"
    if verdict["seeds"] < LEAST_SEEDS:
        return "one seed, and so one data order: no telling"
    told: list[str] = []
    for kind, where in (("", ""), ("_at_equal_flops", "at equal FLOPs ")):
        found = verdict[f"difference{kind}"]
        if found and (p := verdict[f"p_holm{kind}"]) is not None and p < SHOWN:
            told.append(f"{where}{'' if told else verdict['a'] + ' is '}{_worth(found)}")
    if difference["high"] - difference["low"] < ROUNDING:
        told = [
            "the same loss in every pair"
            if abs(difference["value"]) < ROUNDING
            else f"the same difference in every unit, {difference['value']:.2g}"
        ]
    elif sizes_differ(verdict):
        told = (told or ["no difference shown"]) + ["the sizes differ"]
    return ", ".join((told or ["no difference shown"]) + _of_cache(verdict))


def _of_cache(verdict: dict) -> list[str]:
    """From what to what where the sizes' ratios are not nearly one."""
    if verdict["kv_ratio"] is None:
        return []
    least, most = (f"{end:.3g}" for end in verdict["kv_ratio_range"])
    if least == most == "1":
        return ["at the same cache"]
    near = verdict["kv_ratio_range"][1] <= SAME_CACHE * verdict["kv_ratio_range"][0]
    return [f"at {verdict['kv_ratio']:.3g} times the cache" if near else f"at {least} to {most} times the cache"]


def _worth(difference: dict) -> str:
    return f"{'better' if difference['value'] < 0 else 'worse'} by {abs(difference['value']):.2g}"


def _key(run: Run) -> tuple:
    return run.order, run.size, f"{run.tokens:.3g}", run.evaluated_on and run.evaluated_on.windows


def by_key(runs: list[Run]) -> dict[tuple, list[Run]]:
    """The runs by what the two of a pair have in common."""
    found: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if run.order is not None:
            found[_key(run)].append(run)
    return found


def pairs_of(first: dict[tuple, list[Run]], second: dict[tuple, list[Run]]) -> list[tuple[list[Run], list[Run]]]:
    """Of each key that both have, the runs on either side."""
    return [(own, second[key]) for key, own in first.items() if key in second and of_one_size(own, second[key])]


def _mean(runs: list[Run]) -> Run:
    """A run with the means of their numbers and all their names."""
    if len(runs) == 1:
        return runs[0]

    def mean(values: list[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return float(np.mean(numbers)) if len(numbers) == len(values) else None

    return replace(
        runs[0],
        name=" + ".join(run.name for run in runs),
        loss=mean([run.loss for run in runs]),
        flops=mean([run.flops for run in runs]),
        params=mean([run.params for run in runs]),
        kv_bytes_per_token=mean([run.kv_bytes_per_token for run in runs]),
    )


def _verdict(
    a: str, b: str, shared: list[tuple[list[Run], list[Run]]], fit: VariantFit, measured: dict[str, Measured]
) -> dict | None:
    if not shared:
        return None
    pairs = [(_mean(one), _mean(other)) for one, other in shared]
    differ = (settings_that_differ(*two) for ours, theirs in shared for two in itertools.product(ours, theirs))
    units: dict[tuple, list[int]] = {}
    for index, (one, _) in sorted(enumerate(pairs), key=lambda pair: params_of(pair[1][0])):
        units.setdefault((one.size, one.seed), []).append(index)
    difference = _means(_differences(pairs), units)
    plain, known = summary(difference), (pairs, units, measured[a], measured[b], fit)
    (at_flops, flops_by), (multiplier, multiplier_by) = _at_equal_flops(*known), _token_multiplier(*known)
    kv = [
        float(np.mean([cache_of(run) for run in side])) if all(run.kv_bytes_per_token for run in side) else None
        for side in zip(*pairs)
    ]
    ratios = [cache_of(one) / cache_of(other) for one, other in pairs] if all(kv) else []
    return {
        "a": a,
        "b": b,
        "pairs": len(pairs),
        "units": len(units),
        "seeds": len({str(seed) for _, seed in units}),
        "also_differ": sorted(set().union(*differ)),
        "difference": plain["interval"],
        "spread": plain["deviation"],
        **by_size(difference, [str(size) for size, _ in units]),
        "p_t": plain["p_t"],
        "p_signs": plain["p_signs"],
        "p_holm": None,
        "difference_at_equal_flops": at_flops and at_flops["interval"],
        "p_t_at_equal_flops": at_flops and at_flops["p_t"],
        "p_holm_at_equal_flops": None,
        "equal_flops_by": flops_by,
        "token_multiplier": multiplier,
        "token_multiplier_by": multiplier_by,
        "kv_bytes_a": kv[0],
        "kv_bytes_b": kv[1],
        "kv_ratio": float(stats.gmean(ratios)) if ratios else None,
        "kv_ratio_range": [min(ratios), max(ratios)] if ratios else None,
        "largest_params_difference": max(abs(params_of(one) / params_of(other) - 1) for one, other in pairs),
        "runs": [[one.name, other.name, loss_of(one) - loss_of(other)] for one, other in pairs],
    }


def _differences(pairs: list[tuple[Run, Run]]) -> np.ndarray:
    return np.array([loss_of(one) - loss_of(other) for one, other in pairs])


def _means(values: np.ndarray, units: dict[tuple, list[int]]) -> np.ndarray:
    return np.array([values[members].mean() for members in units.values()])


def summary(values: np.ndarray, beside: float = 0.0) -> dict:
    """Of independent values: mean, Student's interval, standard deviation, and p where there are two and more that
    are not one and the same. `beside` is a standard error that all of them share."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {
            "interval": {"value": mean, "low": None, "high": None},
            "deviation": None,
            "p_t": None,
            "p_signs": None,
        }
    deviation = float(values.std(ddof=1))
    error = float(np.hypot(deviation / np.sqrt(count), beside))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    return {
        "interval": {"value": mean, "low": mean - half, "high": mean + half},
        "deviation": deviation,
        "p_t": finite(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > ROUNDING else None,
        "p_signs": _sign_flips(values),
    }


def _sign_flips(values: np.ndarray) -> float:
    """Share of the sign patterns (all of them up to 12 units, else 20,000 drawn) with a mean as far from zero."""
    count = len(values)
    signs = _patterns(count)
    means = np.abs(signs @ values)
    return float((means >= abs(values.sum()) - 1e-12).mean())


@functools.lru_cache(maxsize=4)
def _patterns(count: int) -> np.ndarray:
    """Of so many signs, (patterns, count)."""
    if count <= EXACT_UNITS:
        return np.array(list(itertools.product((-1, 1), repeat=count)))
    signs = np.random.default_rng(SEED).choice((-1, 1), size=(20_000, count))
    signs[0] = 1  # the pattern that was seen is one of them
    return signs


def _at_equal_flops(
    pairs: list[tuple[Run, Run]], units: dict[tuple, list[int]], of_a: Measured, of_b: Measured, fit: VariantFit
) -> tuple[dict | None, str | None]:
    """The summary of the differences at equal FLOPs, and what they rest on.

    "measured": in each pair one of the two has the loss that its own token budgets give it. Where they don't reach,
    "law": b was moved along its law to the tokens that a's FLOPs would have bought it, the law's own uncertainty
    included.
    """
    if not all(one.flops and other.flops for one, other in pairs):
        return None, None
    moved = [difference_at_equal_flops(one, other, of_a, of_b) for one, other in pairs]
    reached = [value for value in moved if value is not None]
    if len(reached) == len(moved):
        return summary(_means(np.array(reached), units)), "measured"
    if fit.law is None or fit.draws is None:
        return None, None
    difference = _differences(pairs)
    ratios = np.array([flops_of(one) / flops_of(other) for one, other in pairs])
    n, d = (np.array([number(other) for _, other in pairs])[:, None] for number in (params_of, tokens_of))
    gains, drawn = (law(n, d * ratios[:, None]) - law(n, d) for law in (fit.law, fit.draws))
    of_law = np.std([_means(draw, units).mean() for draw in drawn.T])
    return summary(_means(difference - gains[:, 0], units), float(of_law)), "law"


def _token_multiplier(
    pairs: list[tuple[Run, Run]], units: dict[tuple, list[int]], of_a: Measured, of_b: Measured, fit: VariantFit
) -> tuple[dict | None, str | None]:
    """How many times its tokens b needs for a's loss, and what that rests on.

    "measured": the geometric mean over pairs of what b's own token budgets say of a's loss, or else a's of b's, with
    Student's interval over units. Where they don't reach, "law": b's at the pairs' mean size and tokens; its interval
    holds the difference's uncertainty (Student's, over units) and the law's (its draws).
    """
    needed = [tokens_at_equal_loss(one, other, of_a, of_b) for one, other in pairs]
    reached = [tokens for tokens in needed if tokens is not None]
    if len(reached) == len(needed):
        found = summary(_means(np.log(reached), units))["interval"]
        return {key: value if value is None else float(np.exp(value)) for key, value in found.items()}, "measured"
    if fit.law is None or fit.draws is None:
        return None, None
    difference = _means(_differences(pairs), units)
    n, d = (float(np.exp(np.mean([np.log(number(run)) for _, run in pairs]))) for number in (params_of, tokens_of))
    mean, count = float(difference.mean()), len(difference)
    value = float(tokens_for(fit.law, n, fit.law(n, d) + mean) / d)
    if count < 2:
        return {"value": finite(value), "low": None, "high": None}, "law"
    noise = np.random.default_rng(SEED).standard_t(count - 1, size=DRAWS) * difference.std(ddof=1) / np.sqrt(count)
    return interval(value, tokens_for(fit.draws, n, fit.draws(n, d) + mean + noise) / d), "law"
