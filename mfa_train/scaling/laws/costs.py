"""What a parameter costs a variant: training FLOPs per token as a function of N.

Two accountings of compute stand side by side everywhere. `parameters`: C = 6·N·D, equal for all variants of one size.
`flops`: the runs' own, exact count, in which wide heads cost more. Between measured sizes a line, or with three and
more a parabola, in log N and log cost; beyond them it is extrapolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mfa_train.scaling.laws.points import Point

ACCOUNTINGS = {
    "parameters": "equal 6 N D, parameters times tokens",
    "flops": "equal training FLOPs: as counted by the runs, attention exact",
}


@dataclass(frozen=True)
class CostOfN:
    """Cost of a token by N: exp(polynomial in log N), `coefficients` highest power first, about `center`."""

    coefficients: tuple[float, ...]
    center: float = 0.0

    def at(self, n: np.ndarray | float) -> np.ndarray:
        """The cost at `n` parameters, in FLOPs per token or whatever `measured` was given."""
        return np.exp(np.polyval(self.coefficients, np.log(n) - self.center))

    def slope(self, n: np.ndarray | float) -> np.ndarray:
        """d log cost / d log N."""
        return np.polyval(np.polyder(np.array(self.coefficients)), np.log(n) - self.center) + 0.0 * np.log(n)


SIX_N = CostOfN((1.0, float(np.log(6))))


def measured(n: Sequence[float], values: Sequence[float | None]) -> CostOfN | None:
    """The cost through the measured values; proportional to N where there is one size; None where none is known."""
    known = np.array([(np.log(x), np.log(y)) for x, y in zip(n, values) if y])
    if not len(known):
        return None
    center = float(known[:, 0].mean())
    sizes = len(np.unique(known[:, 0].round(2)))
    if sizes == 1:
        return CostOfN((1.0, float(known[:, 1].mean())), center)
    return CostOfN(tuple(np.polyfit(known[:, 0] - center, known[:, 1], min(2, sizes - 1))), center)


def flops_per_token(points: Sequence[Point]) -> CostOfN | None:
    """Training FLOPs per token of the points' variant; None where no run tells its FLOPs."""
    return measured(
        [point.params for point in points], [point.flops and point.flops / point.tokens for point in points]
    )
