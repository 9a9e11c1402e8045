"""The optimum of the published objective is found: against scipy from many starts, and against known laws."""

import numpy as np
import pytest
import scipy.optimize

from mfa_train.scaling.laws.law import DELTA, Fit, Points
from tests.scaling.synthetic import HOFFMANN

KNOWN = {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}


def hoffmann_points(seed: int, count: int = 240, noise: float = 0.01, outliers: int = 0) -> Points:
    """N, C and D over the ranges of Hoffmann et al. 2022, figure 4: losses of the law of Besiroglu et al."""
    draw = np.random.default_rng(seed)
    n = np.exp(draw.uniform(np.log(5.7e7), np.log(1.6e10), count))
    d = np.exp(draw.uniform(np.log(1.4e18), np.log(1.3e22), count)) / (6 * n)
    loss = HOFFMANN(n, d) * np.exp(draw.normal(0, noise, count))
    loss[:outliers] *= 1.2
    return Points(n, d, loss, np.zeros(count, dtype=int))


def published_objective(theta: np.ndarray, points: Points) -> float:
    """As in the notebook of Besiroglu et al.: parameters a, b, e, alpha, beta, log-sum-exp, Huber, summed."""
    a, b, e, alpha, beta = theta
    log_loss = np.logaddexp(np.logaddexp(a - alpha * np.log(points.n), b - beta * np.log(points.d)), e)
    size = np.abs(np.log(points.loss) - log_loss)
    return float(np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


@pytest.mark.parametrize("seed, outliers", [(1, 0), (2, 5)])
def test_no_start_of_the_published_procedure_gets_lower(seed, outliers):
    points = hoffmann_points(seed, outliers=outliers)
    fit = Fit(points)
    law = fit.law(0)
    ours = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])
    assert published_objective(ours, points) == pytest.approx(fit.objective, rel=1e-9)
    draw = np.random.default_rng(0)
    starts = [
        ours,
        *np.stack(
            [
                draw.uniform(0, 25, 16),
                draw.uniform(0, 25, 16),
                draw.uniform(-1, 1, 16),
                draw.uniform(0, 2, 16),
                draw.uniform(0, 2, 16),
            ],
            axis=1,
        ),
    ]
    ends = [
        scipy.optimize.minimize(
            published_objective,
            start,
            args=(points,),
            method="L-BFGS-B",
            options={"maxiter": 3000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-10},
        )
        for start in starts
    ]
    best = min(ends, key=lambda end: end.fun)
    assert fit.objective <= best.fun * (1 + 1e-6)
    assert np.allclose(ours, best.x, rtol=2e-3)


def test_points_on_a_law_give_the_law():
    points = hoffmann_points(3, noise=0)
    law = Fit(points).law(0)
    for key, value in KNOWN.items():
        assert getattr(law, key) == pytest.approx(value, rel=1e-4)


def test_a_twentieth_of_wild_points_hardly_moves_it():
    clean, wild = (Fit(hoffmann_points(4, outliers=outliers)).law(0) for outliers in (0, 12))
    assert wild.alpha == pytest.approx(clean.alpha, abs=0.01) and wild.beta == pytest.approx(clean.beta, abs=0.01)


def test_groups_that_share_exponents_are_each_found():
    n, d = (grid.ravel() for grid in np.meshgrid([1e7, 4e7, 1.6e8], [1e8, 1e9, 1e10]))
    losses = [1.7 + 300 / n**0.33 + b / d**0.36 for b in (900, 1000)]
    fit = Fit(Points(np.tile(n, 2), np.tile(d, 2), np.concatenate(losses), np.repeat([0, 1], len(n))))
    for group, b in enumerate((900, 1000)):
        law = fit.law(group)
        assert (law.alpha, law.beta, law.E, law.B) == pytest.approx((0.33, 0.36, 1.7, b), rel=1e-3)


def test_refits_are_the_optima_of_their_weights():
    points = hoffmann_points(5, count=80)
    fit = Fit(points)
    weights = np.random.default_rng(0).integers(0, 3, size=(4, 80)).astype(float)
    for theta, weight in zip(fit.refit(weights), weights):
        kept = np.repeat(np.arange(80), weight.astype(int))
        alone = Fit(Points(points.n[kept], points.d[kept], points.loss[kept], points.group[kept])).law(0)
        law = fit.law(0, theta)
        assert (float(law.alpha), float(law.beta)) == pytest.approx((float(alone.alpha), float(alone.beta)), abs=0.01)
