"""The comparison as one plain object, fit.json: laws, answers, verdicts, and the runs they come from."""

import platform
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from mfa_train.errors import ConfigError, did_you_mean
from mfa_train.scaling.laws.answers import at_budgets, frontier_curves, parameter_differences
from mfa_train.scaling.laws.bootstrap import CONFIDENCE, DRAWS, SEED
from mfa_train.scaling.laws.costs import ACCOUNTINGS
from mfa_train.scaling.laws.fits import VariantFit, fit_variants
from mfa_train.scaling.laws.law import ESTIMATOR
from mfa_train.scaling.report.thinning import ROWS, evenly, few_notices
from mfa_train.scaling.study.data_orders import why_no_pairs
from mfa_train.scaling.study.drawn import NOT_DRAWN
from mfa_train.scaling.study.gather import PARAMETERS, Study
from mfa_train.scaling.study.mixtures import COUNTED, is_mixture
from mfa_train.scaling.study.plain_files import shown
from mfa_train.scaling.study.runs import BOUNDS, Run
from mfa_train.scaling.study.size_names import size_names
from mfa_train.scaling.verdicts.answer import answer
from mfa_train.scaling.verdicts.at_largest import at_largest
from mfa_train.scaling.verdicts.by_position import CONVENTION, loss_by_position
from mfa_train.scaling.verdicts.cells import LEAST_FREE
from mfa_train.scaling.verdicts.enough import POWER, SHOWN
from mfa_train.scaling.verdicts.known import loss_of
from mfa_train.scaling.verdicts.kv_at_equal_loss import kv_at_equal_loss
from mfa_train.scaling.verdicts.kv_frontier import loss_over_kv
from mfa_train.scaling.verdicts.paired import settings_beside, verdicts
from mfa_train.scaling.verdicts.said import LEVEL_WITHIN
from mfa_train.scaling.verdicts.scores import scores
from mfa_train.scaling.verdicts.scores_told import scores_told
from mfa_train.scaling.verdicts.sentences import by_laws, label, why_no_law
from mfa_train.training.run_folder.provenance import code_commit

FORMAT = 1
MOST_BUDGETS = 100
SCORES = (
    "of the runs' last states on tasks, held against the reference's of the same size, tokens and seed on the same "
    "documents. Of several seeds: means over seeds and documents, the interval by Banerjee (1960) from what documents "
    "and what seeds do (the latter pooled over the sizes); of one seed, runs alone: exact McNemar test of right and "
    "wrong answers, else paired t. p_holm: corrected for the questions of the size and token budget, those of the "
    "compared metric (bits per byte where the task has them) and those of the accuracy beside it each by themselves; "
    "standard errors: of documents, with several seeds of seeds too"
)
"""How scores on tasks are counted, where there are any."""


def compare(study: Study, reference: str | None = None, budgets: tuple[float, ...] = ()) -> dict:
    """Fits and compares the study's variants. `reference` (by default mha where it is one, else the first) is what the
    others are held against; `budgets` are FLOPs to answer for. Raises ConfigError for a reference that is none of
    them."""
    variants = study.variants()
    budgets = _budgets(budgets)
    reference = _reference(variants, reference)
    fits = fit_variants(variants)
    sizes = size_names(study.used)
    over_kv, left_out = loss_over_kv(study.used, fits, reference, sizes)
    attentions = {name: str(runs[0].attention) for name, runs in variants.items()}
    pairs = verdicts(variants, fits)
    notices = study.notices + _of_fits(fits) + left_out
    without_pairs = ""
    if len(variants) > 1 and not pairs:
        notices.append(without_pairs := why_no_pairs(variants, len(study.runs) - len(study.used)))
    notices += settings_beside(pairs, attentions)
    listed = study.runs if len(study.runs) <= ROWS else _listed(study.runs)
    thinned = (
        {}
        if len(listed) == len(study.runs)
        else {
            "thinned": {"runs": [len(listed), len(study.runs)]},
            "counts": {"runs": len(study.runs), "used": len(study.used)},
        }
    )
    told = {name: _variant(name, variants[name], fits[name]) for name in variants}
    laws = {name: one["fit"] for name, one in told.items()}
    budgets_answered = [
        row for accounting in ACCOUNTINGS for row in at_budgets(variants, fits, reference, accounting, budgets)
    ]
    losses = {name: float(np.mean([loss_of(run) for run in runs])) for name, runs in variants.items()}
    answered = answer(pairs, reference, losses, len(variants), without_pairs, sizes)
    scored, unlike = scores(study.used, reference)
    notices += unlike
    if not pairs and (of_laws := by_laws(budgets_answered, laws, reference)):
        answered["sentences"].append(of_laws)
    result = {
        "format": FORMAT,
        "conventions": _conventions(study),
        "made_by": {"code_commit": code_commit(), "versions": _versions(), "python": platform.python_version()},
        "answer": answered | {"why_no_law": why_no_law(laws)},
        "reference": reference,
        "sizes": sizes,
        "decode_context": _decode_context(study.used),
        "notices": few_notices(notices),
        "variants": told,
        "at_largest": at_largest(variants, reference),
        "parameter_differences": parameter_differences(fits, reference),
        "at_budgets": budgets_answered,
        "frontiers": [curve for accounting in ACCOUNTINGS for curve in frontier_curves(variants, fits, accounting)],
        "loss_over_kv": over_kv,
        "kv_at_equal_loss": kv_at_equal_loss(over_kv, attentions),
        "verdicts": pairs,
        "runs": [_run(run, residual) for run, residual in _with_residuals(listed, variants, fits)],
    } | thinned
    if by_position := loss_by_position(study.used):
        result |= {
            "conventions": _conventions(study) | {"loss_by_position": CONVENTION},
            "loss_by_position": by_position,
        }
    return result | _of_scores(result, scored, listed) if scored else result


def _of_scores(result: dict, rows: list[dict], listed: list[Run]) -> dict:
    """What scores on tasks add to a result."""
    return {
        "conventions": result["conventions"] | {"scores": SCORES},
        "evaluations": rows,
        "evaluations_told": scores_told(rows, result["reference"], result["sizes"]),
        "runs": [
            row
            | {
                "scores": {
                    f"{task} {score.metric}": score.value
                    for task, evaluation in run.evaluations.by_task.items()
                    for score in evaluation.scores
                }
            }
            for row, run in zip(result["runs"], listed)
        ],
    }


def _budgets(wanted: tuple[float, ...]) -> tuple[float, ...]:
    least, most = BOUNDS["flops"]
    for budget in wanted:
        if not max(1, least) <= budget <= most:
            raise ConfigError(f"--budget {budget:g}: expected FLOPs from 1 to {most:g}, as --budget 1e20,1e21")
    if len(different := tuple(dict.fromkeys(wanted))) > MOST_BUDGETS:
        raise ConfigError(f"--budget: {len(different)} budgets, expected at most {MOST_BUDGETS}")
    return different


def _reference(variants: dict[str, list[Run]], wanted: str | None) -> str:
    if wanted is None:
        of_mha = [name for name, runs in variants.items() if runs[0].attention == "mha"]
        return min(of_mha or variants, key=lambda name: len(name) if of_mha else 0)
    if wanted not in variants:
        if short := [name for name in variants if label(name) == wanted]:
            return short[0]
        same = [name for name, runs in variants.items() if runs[0].attention == wanted]
        raise ConfigError(
            f"--reference {shown(wanted)}: no such variant."
            + (f" Of {wanted} there are: {', '.join(same[:8])}" if same else did_you_mean(wanted, variants))
        )
    return wanted


def _decode_context(runs: list[Run]) -> int | None:
    """Cached tokens behind which a token was decoded in the runs' plans, where it is one number for all."""
    contexts = {run.config.get("plan.context") or run.config.get("training.sequence_length") for run in runs}
    context = contexts.pop() if len(contexts) == 1 else None
    return context if isinstance(context, int) else None


def _of_fits(fits: dict[str, VariantFit]) -> list[str]:
    """What is said of the variants' fits, each once."""
    said: dict[str, list[str]] = defaultdict(list)
    for name, fit in fits.items():
        for notice in fit.notices:
            said[notice].append(name)
    return [f"{', '.join(names)}: {notice}" for notice, names in said.items()]


def _conventions(study: Study) -> dict:
    from_points = all(not run.config for run in study.used)
    of_mixtures = f", {COUNTED}" if any(map(is_mixture, study.used)) else ""
    return {
        "estimator": ESTIMATOR,
        "loss": f"held out, {study.loss_unit}" if not from_points else "as given",
        "parameters": "as given" if from_points else PARAMETERS[study.parameters] + of_mixtures,
        "compute": ACCOUNTINGS,
        "flops": "as given, where given; tokens that are not given are C / 6N"
        if from_points
        else "matrix products and attention (causal half), forward and twice that backward, nothing for recomputation",
        "kv_bytes": "values of all layers' cache entries, 2 bytes each unless plan.cache_dtype says otherwise",
        "intervals": f"{CONFIDENCE:.0%}; Bayesian bootstrap of {DRAWS} draws (seed {SEED}) over units of one size and "
        "seed, spread for few units; of paired differences and of means over seeds: Student's t, the spread of means "
        "over seeds pooled over the sizes at their budgets of one rank, and over the variants where that leaves fewer "
        f"than {LEAST_FREE} degrees of freedom (then those of the sizes and seeds alone, which variants share)",
        "between_budgets": "at equal FLOPs and at equal loss, interpolated over log tokens (PCHIP) between three and "
        "more of a variant's own token budgets of the size and seed (by: measured), else by its law (by: law)",
        "p": "paired t-test and sign-flip permutation over units of one size and seed; p_holm: the former, corrected "
        "for the number of pairs of variants; at equal FLOPs likewise",
        "shown": f"p_holm below {SHOWN}, and more than one seed; on the KV frontier: Student's test over seeds, p "
        "corrected for the pairs of the size and token budget",
        "level": "not shown to differ, and the interval, corrected for as many pairs, leaves less than "
        f"{LEVEL_WITHIN:.1%} of the loss either way",
        "more_seeds": f"as many as would show the difference in {POWER:.0%} of studies, were it and its spread from "
        "seed to seed within a size as measured, p corrected for the pairs that are not shown yet; none where the "
        f"difference changes with the size (p_sizes, of the one-way F test over the sizes, below {SHOWN})",
    }


def _variant(name: str, runs: list[Run], fit: VariantFit) -> dict:
    return {
        "attention": runs[0].attention,
        "runs": [run.name for run in runs],
        "fit": {
            "method": fit.method,
            "reason": fit.reason,
            "notices": fit.notices,
            **fit.quality,
            **(fit.parameters() if fit.law is not None else {}),
        },
    }


def _listed(runs: list[Run]) -> list[Run]:
    """As many as a table holds: those that are compared before those that were not drawn."""
    first = evenly([run for run in runs if run.excluded != NOT_DRAWN], ROWS)
    return first + evenly([run for run in runs if run.excluded == NOT_DRAWN], ROWS - len(first))


def _with_residuals(
    listed: list[Run], variants: dict[str, list[Run]], fits: dict[str, VariantFit]
) -> list[tuple[Run, float | None]]:
    residuals: dict[int, float] = {}
    for name, runs in variants.items():
        found = fits[name].residuals
        if found is not None:
            residuals |= {id(run): float(np.expm1(value)) * loss_of(run) for run, value in zip(runs, found)}
    return [(run, residuals.get(id(run))) for run in listed]


def _run(run: Run, residual: float | None) -> dict:
    keys = (
        "name",
        "source",
        "status",
        "excluded",
        "variant",
        "attention",
        "size",
        "params",
        "non_embedding_params",
        "tokens",
        "flops",
        "loss",
        "bits_per_byte",
        "kv_bytes_per_token",
        "decode_flops_per_token",
        "seconds",
        "seed",
        "shape",
    )
    trace = defaultdict(lambda: None, run.trace)
    of_mixture = {"total_params": run.total_params} if is_mixture(run) else {}
    return (
        {key: getattr(run, key) for key in keys}
        | of_mixture
        | {
            "residual": residual,
            "config_sha256": trace["config_sha256"],
            "data": trace["data"],
            "code_commit": trace["code_commit"],
            "versions": trace["versions"],
        }
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in ("mfa-train", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return found
