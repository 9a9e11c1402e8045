"""Uncertainty: a Bayesian bootstrap over independent units, corrected for few of them.

A draw weights every unit (the runs that share a size and a seed, and so a start and a data order) by an exponential
number (Rubin 1981); variants that were trained with the same seeds get the same weights, so that what their runs have
in common drops out of differences. Unlike resampling it never loses a size altogether, which a small ladder could not
bear. It is too narrow for few units: the draws are spread about the estimate by sqrt((u + 1)/(u - k)) for u units and k
fitted parameters (of a mean, k = 1, that is its unbiased variance), and by the ratio of Student's quantile to the
normal one. The coverage that results is tested
(tests/scaling/test_fits.py).
"""

import zlib
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
DRAWS = 400
SEED = 20240415
ROUNDING = 1e-9
"""Nats: no spread of losses, which are floats read from decimals, where it is less."""


def unit_weights(units: Sequence[Hashable], draws: int = DRAWS) -> np.ndarray:
    """Weights (draws, points): equal for points of the same unit, in whatever set of points it stands."""
    labels = [repr(unit) for unit in units]
    drawn = {
        label: np.random.default_rng([SEED, zlib.crc32(label.encode())]).exponential(size=draws)
        for label in set(labels)
    }
    return np.stack([drawn[label] for label in labels], axis=1)


def spread(units: int, parameters: int) -> float:
    """How far to spread the draws about the estimate; units must be more than parameters."""
    free = units - parameters
    return float(
        np.sqrt((units + 1) / free) * stats.t.ppf((1 + CONFIDENCE) / 2, free) / stats.norm.ppf((1 + CONFIDENCE) / 2)
    )


def interval(value: np.ndarray | float, draws: np.ndarray | float) -> dict:
    """The interval {value, low, high} by percentiles of `draws`; None where not finite (a loss never reached, say)."""
    low, high = np.percentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], method="closest_observation")
    return {"value": finite(value), "low": finite(low), "high": finite(high)}


def finite(value: np.ndarray | float) -> float | None:
    """The number; None where it isn't finite: JSON has no such number."""
    return float(value) if np.isfinite(value) else None
