"""For which variants a law can be fitted, by which runs, with what uncertainty; where it can't, why not.

1. Each variant with at least three sizes, three token budgets and six runs is fitted alone.
2. If one of them is too few for that, or its exponents come out undetermined, the variants are fitted together with
   shared exponents, each with its own E, A and B.
3. Runs of one size and seed share their start and their data, and are one unit of the bootstrap. Only where both
   ways have too few units does each run count as one, and that is said.
4. What is undetermined even then has no law, and is told so instead of numbers.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from mfa_train.scaling.laws.bootstrap import interval, spread, unit_weights
from mfa_train.scaling.laws.law import EXPONENTS, Fit, Law, Points
from mfa_train.scaling.laws.points import Point, points_of
from mfa_train.scaling.study.runs import Run

WIDEST_EXPONENT = 1.0
"""An interval wider than that says nothing about an exponent."""
FEW_UNITS = "too few data: independent units"
EACH_RUN = (
    "too few sizes and seeds to take the runs that share both as one: every run counts as independent, and the "
    "intervals "
    "are narrower than they should be if those runs err together"
)
UnitOf = Callable[[Point], Hashable]
"""What points that share it are one unit of."""
WORST_EXPLAINED, POOR_EXPLAINED = 0.5, 0.9


@dataclass
class VariantFit:
    """`law` and its bootstrap `draws` (a Law of arrays), or `reason` why there is none."""

    method: str
    """separate | shared exponents | none."""
    reason: str = ""
    law: Law | None = None
    draws: Law | None = None
    quality: dict = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    residuals: np.ndarray | None = None
    """log L measured - fitted, of the variant's runs in their order."""

    def parameters(self) -> dict[str, dict]:
        """{E, A, alpha, B, beta: {value, low, high}}, of a variant that has a law."""
        return {
            key: interval(getattr(self.law, key), getattr(self.draws, key)) for key in ("E", "A", "alpha", "B", "beta")
        }


def fit_variants(runs: dict[str, list[Run]]) -> dict[str, VariantFit]:
    """A fit for each variant, in the order of `runs`, which has those that are compared by variant."""
    variants = {name: points_of(own) for name, own in runs.items()}
    fits = {name: VariantFit("none", _too_few(points, 3)) for name, points in variants.items()}
    why = ""
    for unit_of in (_size_and_seed, _run):
        for name, points in variants.items():
            if fits[name].law is None and (not fits[name].reason or fits[name].reason.startswith(FEW_UNITS)):
                fits[name] = _fit({name: points}, "separate", unit_of)[name]
        if all(fits[name].law is not None or _too_few(points, 2) for name, points in variants.items()):
            return fits  # what is too few to share exponents gives no reason to share them
        together, why = _together(variants, fits, unit_of)
        if together:
            return fits | together
        if not any(told.startswith(FEW_UNITS) for told in (why, *(fit.reason for fit in fits.values()))):
            break
    for fit in fits.values():
        if fit.law is None and why:
            fit.reason += f"; all variants together, exponents shared: {why}"
    return fits


def _together(
    variants: dict[str, list[Point]], fits: dict[str, VariantFit], unit_of: UnitOf
) -> tuple[dict[str, VariantFit], str]:
    """Fits with shared exponents of the variants that have enough for that; or none, and why."""
    able = {name: points for name, points in variants.items() if not _too_few(points, 2)}
    all_points, fitted = [point for points in able.values() for point in points], 2 + 3 * len(able)
    if len(able) < 2:
        return {}, ""
    if why := _too_few(all_points, 3):
        return {}, why
    if len(all_points) <= fitted:
        return {}, f"too few data: runs {len(all_points)} for {fitted} parameters"
    together = _fit(able, "shared exponents", unit_of)
    if why := next((fit.reason for fit in together.values() if fit.law is None), ""):
        return {}, why
    because = "; ".join(f"{name}: {fit.reason}" for name, fit in fits.items() if fit.law is None)
    for fit in together.values():
        fit.notices.append(f"exponents are shared by the variants, since not each can be fitted alone ({because})")
    return together, ""


def _too_few(points: list[Point], least: int) -> str:
    """Empty where the points have `least` sizes and token budgets, and are one more than the parameters they
    determine."""
    sizes, budgets = _distinct([point.params for point in points]), _distinct([point.tokens for point in points])
    needed = {3: 6, 2: 4}[least]
    if sizes >= least and budgets >= least and len(points) >= needed:
        return ""
    return (
        f"too few data: runs {len(points)}, sizes {sizes}, token budgets {budgets}; needed are at least {needed}, "
        f"{least} and {least}"
    )


def _distinct(values: list[float]) -> int:
    """Number of groups: each begins at the smallest value left, and takes in those up to 5% above it."""
    count, smallest = 0, 0.0
    for value in sorted(values):
        if value > 1.05 * smallest:
            count, smallest = count + 1, value
    return count


def _fit(variants: dict[str, list[Point]], method: str, unit_of: UnitOf) -> dict[str, VariantFit]:
    """A fit of all `variants` together, each with E, A and B of its own."""
    points = [point for own in variants.values() for point in own]
    group = np.repeat(np.arange(len(variants)), [len(own) for own in variants.values()])
    n, d, loss = np.array([(point.params, point.tokens, point.loss) for point in points], dtype=float).T
    fitted = 5 if len(variants) == 1 else 4  # of one variant, its part of the shared exponents included
    smallest = min(len(set(map(unit_of, own))) for own in variants.values())
    if smallest <= fitted + (unit_of is _size_and_seed):
        return {name: VariantFit("none", f"{FEW_UNITS} {smallest}, for {fitted} parameters") for name in variants}
    fit = Fit(Points(n, d, loss, group))
    theta = fit.refit(unit_weights(list(map(unit_of, points))))
    theta = fit.theta + spread(smallest, fitted) * (theta - fit.theta)
    within = theta.copy()  # so that every draw is a law
    within[:, :2] = np.clip(theta[:, :2], EXPONENTS[0], EXPONENTS[-1])
    notices = [] if unit_of is _size_and_seed else [EACH_RUN]
    residual = fit.target - fit.predicted()
    made = {}
    for index, (name, part) in enumerate(zip(variants, fit.parts)):
        law, draws = fit.law(index), fit.law(index, within)
        explained = 1 - (_scatter(residual[part]) / _scatter(fit.target[part])) ** 2
        quality = {
            "runs": len(part),
            "independent_units": smallest,
            "objective": fit.objective,
            "starts": fit.starts,
            "starts_at_the_optimum": fit.agreeing,
            "explained": float(explained),
            "rms_residual": float(np.sqrt(np.mean((loss[part] * residual[part]) ** 2))),
            "seed_scatter": _seed_scatter(variants[name]),
        }
        reason = _undetermined(law, fit.law(index, theta), explained)
        made[name] = (
            VariantFit("none", reason, quality=quality)
            if reason
            else VariantFit(method, "", law, draws, quality, _caveats(law, draws, quality) + notices, residual[part])
        )
    return made


def _size_and_seed(point: Point) -> Hashable:
    """A name that runs of one unit share; a run of no known seed is one of its own."""
    return (point.size, point.seed) if point.seed is not None else _alone(point)


def _run(point: Point) -> Hashable:
    """A name that no two runs share, but for those of one size, seed and budget."""
    return (point.size, point.seed, f"{point.tokens:.3g}") if point.seed is not None else _alone(point)


def _alone(point: Point) -> Hashable:
    """A name of the point itself, whatever file and line it stands in."""
    return point.variant, point.params, point.tokens, point.loss


def _undetermined(law: Law, draws: Law, explained: float) -> str:
    """Why the fit is no result; empty where it is one."""
    if not explained >= WORST_EXPLAINED:
        return f"poor fit: the law explains {max(explained, 0):.0%} of the losses' spread"
    for name, letter, exponent, drawn in (("alpha", "N", law.alpha, draws.alpha), ("beta", "D", law.beta, draws.beta)):
        found = interval(exponent, drawn)
        if not EXPONENTS[1] < exponent < EXPONENTS[-2]:
            return f"{name} is not determined: the loss does not follow a power of {letter} in these runs"
        if found["low"] <= 0 or found["high"] - found["low"] > WIDEST_EXPONENT:
            return f"{name} is not determined by these runs: {exponent:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    return ""


def _caveats(law: Law, draws: Law, quality: dict) -> list[str]:
    notices = []
    if quality["explained"] < POOR_EXPLAINED:
        notices.append(f"the law explains only {quality['explained']:.0%} of the losses' spread")
    floor = interval(law.E, draws.E)
    if floor["low"] < 0.5 * floor["value"]:
        notices.append(
            f"E is hardly determined ({floor['value']:.3g} [{floor['low']:.3g}, {floor['high']:.3g}]): don't "
            "extrapolate"
        )
    if quality["seed_scatter"] and quality["rms_residual"] > 3 * quality["seed_scatter"]:
        notices.append(
            f"the law misses the runs by {quality['rms_residual']:.4f}, seeds by {quality['seed_scatter']:.4f}: its "
            "form does not hold over this range"
        )
    return notices


def _scatter(values: np.ndarray) -> float:
    """The median distance from the median: what a few wild values don't move."""
    return float(np.median(np.abs(values - np.median(values)))) or 1e-12


def _seed_scatter(points: list[Point]) -> float | None:
    """Standard deviation of the loss between seeds at one size and token budget; None without repeated cells."""
    cells: dict[tuple, list[float]] = {}
    for point in points:
        cells.setdefault((point.size, point.tokens), []).append(point.loss)
    repeated = [np.array(losses) for losses in cells.values() if len(losses) > 1]
    free = sum(len(losses) - 1 for losses in repeated)
    return float(np.sqrt(sum(((losses - losses.mean()) ** 2).sum() for losses in repeated) / free)) if free else None
