"""Two variants, run by run: pairs have the same size, tokens, seed and data order, and differ in the attention alone.

Runs of one size and seed share their start and their data, so their differences (at several token budgets) are averaged
first: a unit is one size and seed. Over the units: the mean difference with Student's interval, the p of the paired
t-test, and the p of the sign-flip permutation test, which assumes no normal distribution and cannot be below 2 /
2^units.
"""

import itertools

import numpy as np
from scipy import stats

from mfa_train.scaling.bootstrap import DRAWS, LEVEL, SEED, finite, interval
from mfa_train.scaling.fits import VariantFit
from mfa_train.scaling.frontier import tokens_for
from mfa_train.scaling.runs import Run

PARAMS_WITHIN = 0.02
"""How far the parameters of a pair may differ, as a share."""
EXACT_UNITS = 12


def verdicts(variants: dict[str, list[Run]], fits: dict[str, VariantFit]) -> list[dict]:
    """One for each two variants that have pairs, `p_holm` corrected for the number of them (Holm 1979)."""
    found = [verdict for a, b in itertools.combinations(variants, 2)
             if (verdict := _verdict(a, b, _pairs(variants[a], variants[b]), fits[b]))]
    tested = sorted((verdict for verdict in found if verdict["p_t"] is not None), key=lambda verdict: verdict["p_t"])
    lowest = 0.0
    for rank, verdict in enumerate(tested):
        lowest = max(lowest, min(1.0, (len(tested) - rank) * verdict["p_t"]))
        verdict["p_holm"] = lowest
    for verdict in found:
        verdict["says"] = _says(verdict)
    return found


def _says(verdict: dict) -> str:
    """In words, for a person; better or worse only where p, corrected for the number of pairs, is below 0.05."""
    difference, at_flops, kv = verdict["difference"], verdict["difference_at_equal_flops"], verdict["kv_ratio"]
    if difference["low"] is None:
        return "one size and seed: no telling"
    told = ["no difference shown" if verdict["p_holm"] is None or verdict["p_holm"] >= 0.05 else
            f"{verdict['a']} is {_worth(difference)}"]
    if at_flops and at_flops["low"] is not None and at_flops["low"] * at_flops["high"] > 0:
        told.append(f"{_worth(at_flops)} at equal FLOPs")
    return ", ".join(told + ([] if kv is None else [f"at {kv:.3g} times the cache"]))


def _worth(difference: dict) -> str:
    return f"{'better' if difference['value'] < 0 else 'worse'} by {abs(difference['value']):.2g}"


def _pairs(first: list[Run], second: list[Run]) -> list[tuple[Run, Run]]:
    def key(run: Run) -> tuple:
        return run.order, run.size, f"{run.tokens:.3g}"

    partners = {key(run): run for run in second if run.order is not None}
    pairs = [(run, partners[key(run)]) for run in first if run.order is not None and key(run) in partners]
    return [(a, b) for a, b in pairs if abs(np.log(a.params / b.params)) <= PARAMS_WITHIN]


def _verdict(a: str, b: str, pairs: list[tuple[Run, Run]], fit: VariantFit) -> dict | None:
    if not pairs:
        return None
    units: dict[tuple, list[int]] = {}
    for index, (one, _) in enumerate(pairs):
        units.setdefault((one.size, one.seed), []).append(index)
    difference = _means(np.array([one.loss - other.loss for one, other in pairs]), units)
    plain = _summary(difference)
    at_flops = _at_equal_flops(pairs, fit)
    kv = [
        float(np.mean([run.kv_bytes_per_token for run in side]))
        if all(run.kv_bytes_per_token for run in side)
        else None
        for side in zip(*pairs)
    ]
    return {
        "a": a, "b": b, "pairs": len(pairs), "units": len(units),
        "difference": plain["interval"], "p_t": plain["p_t"], "p_signs": plain["p_signs"], "p_holm": None,
        "difference_at_equal_flops": at_flops and _summary(_means(np.array(at_flops), units))["interval"],
        "token_multiplier": _token_multiplier(pairs, difference, fit),
        "kv_bytes_a": kv[0], "kv_bytes_b": kv[1], "kv_ratio": kv[0] / kv[1] if all(kv) else None,
        "largest_params_difference": max(abs(one.params / other.params - 1) for one, other in pairs),
        "runs": [[one.name, other.name, one.loss - other.loss] for one, other in pairs],
    }


def _means(values: np.ndarray, units: dict[tuple, list[int]]) -> np.ndarray:
    return np.array([values[members].mean() for members in units.values()])


def _summary(values: np.ndarray) -> dict:
    """Of independent values: mean, Student's interval, and p where there are two and more."""
    mean, count = float(values.mean()), len(values)
    error = values.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    if count < 2 or error == 0:
        return {"interval": {"value": mean, "low": None, "high": None}, "p_t": None, "p_signs": None}
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * error
    return {"interval": {"value": mean, "low": mean - half, "high": mean + half},
            "p_t": finite(2 * stats.t.sf(abs(mean) / error, count - 1)), "p_signs": _sign_flips(values)}


def _sign_flips(values: np.ndarray) -> float:
    """Share of the sign patterns (all of them up to 12 units, else 20,000 drawn) with a mean as far from zero."""
    count = len(values)
    if count <= EXACT_UNITS:
        signs = np.array(list(itertools.product((-1, 1), repeat=count)))
    else:
        signs = np.random.default_rng(SEED).choice((-1, 1), size=(20_000, count))
        signs[0] = 1  # the pattern that was seen is one of them
    means = np.abs(signs @ values)
    return float((means >= abs(values.sum()) - 1e-12).mean())


def _at_equal_flops(pairs: list[tuple[Run, Run]], fit: VariantFit) -> list[float] | None:
    """Differences after b was moved along its law to the tokens that a's FLOPs would have bought it."""
    if not all(one.flops and other.flops for one, other in pairs):
        return None
    ratios = [one.flops / other.flops for one, other in pairs]
    if max(abs(np.log(ratios))) < 1e-4:
        return [one.loss - other.loss for one, other in pairs]
    if fit.law is None:
        return None
    moved = [float(fit.law(other.params, other.tokens * ratio) - fit.law(other.params, other.tokens))
             for ratio, (_, other) in zip(ratios, pairs)]
    return [one.loss - other.loss - gain for gain, (one, other) in zip(moved, pairs)]


def _token_multiplier(pairs: list[tuple[Run, Run]], difference: np.ndarray, fit: VariantFit) -> dict | None:
    """How many times its tokens b needs for a's loss, by b's law at the pairs' mean size and tokens.

    The interval holds the difference's uncertainty (Student's, over units) and the law's (its draws).
    """
    if fit.law is None:
        return None
    n, d = (float(np.exp(np.mean([np.log(getattr(run, key)) for _, run in pairs]))) for key in ("params", "tokens"))
    mean, count = float(difference.mean()), len(difference)
    value = tokens_for(fit.law, n, fit.law(n, d) + mean) / d
    if count < 2:
        return {"value": finite(value), "low": None, "high": None}
    noise = np.random.default_rng(SEED).standard_t(count - 1, size=DRAWS) * difference.std(ddof=1) / np.sqrt(count)
    return interval(value, tokens_for(fit.draws, n, fit.draws(n, d) + mean + noise) / d)
