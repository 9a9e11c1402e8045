"""The scaling law L(N, D) = E + A/N^alpha + B/D^beta and its fit.

The estimator is approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556) as corrected by Besiroglu et al. 2024 (arXiv
2404.10102): the sum of Huber losses (delta 1e-3) of log L, minimised to tight tolerances. Only the way there differs:

    1. For a grid of (alpha, beta) the best E, A, B >= 0 are found by reweighted least squares: variable projection,
       whose two remaining directions are well conditioned where the five together are not.
    2. The best cells of the grid start a damped Gauss-Newton over all parameters, N and D measured from their
       geometric means so that A and alpha (B and beta) don't stand in for each other.
    3. A quasi-Newton method ends it (scipy's BFGS).

Several groups may share alpha and beta, each with its own E, A and B. Weights of points make bootstrap refits:
thousands of them at once, warm-started.
"""

from dataclasses import dataclass

import numpy as np
import scipy.optimize

ESTIMATOR = (
    "L(N, D) = E + A/N^alpha + B/D^beta; sum of Huber losses of log L, delta 1e-3 (Hoffmann et al. 2022, approach 3; "
    "Besiroglu et al. 2024)"
)
DELTA = 1e-3
EXPONENTS = np.geomspace(0.02, 3.0, 28)
"""Of the grid; an exponent fitted at its ends is not determined by the points."""
STARTS, POLISHED = 6, 2
BLOCK = 1_000_000
"""Draws × points that are refitted at once: twenty arrays of that size."""


@dataclass(frozen=True)
class Points:
    """What the law is fitted to: N parameters, D tokens, loss; each (points,). `group` (points,) numbers the
    groups 0, 1, …"""

    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    group: np.ndarray

    @property
    def groups(self) -> int:
        """How many there are."""
        return int(self.group.max()) + 1


@dataclass(frozen=True)
class Law:
    """E, A, alpha, B, beta; scalars, or arrays (draws,) of a bootstrap."""

    E: np.ndarray | float
    A: np.ndarray | float
    alpha: np.ndarray | float
    B: np.ndarray | float
    beta: np.ndarray | float

    def __call__(self, n: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
        """Loss at `n` parameters and `d` tokens, broadcast against the parameters."""
        return self.E + self.A * np.power(n, -self.alpha) + self.B * np.power(d, -self.beta)


class Fit:
    """The law fitted to each group of `points`, exponents shared by all groups.

    `theta` (2 + 3·groups,) is alpha, beta and each group's log E, log A, log B at the centred N and D; `objective` the
    sum of Huber losses; `agreeing` how many of the `starts` descend to within a thousandth of it.
    """

    def __init__(self, points: Points):
        self.points = points
        self.center = np.log(points.n).mean(), np.log(points.d).mean()
        self.parts = [np.flatnonzero(points.group == group) for group in range(points.groups)]
        self.x = np.log(points.n) - self.center[0]
        self.y = np.log(points.d) - self.center[1]
        self.target = np.log(points.loss)
        starts, values = self._descend(self._search(), np.ones((1, len(self.target))), 100)
        ends = [
            scipy.optimize.minimize(
                self._value_and_slope, start, jac=True, method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}
            )
            for start in starts[np.argsort(values)[:POLISHED]]
        ]
        best = min(ends, key=lambda end: end.fun)
        self.theta, self.objective = best.x, float(best.fun)
        self.starts, self.agreeing = len(starts), int((values < best.fun * 1.001 + 1e-15).sum())

    def law(self, group: int, theta: np.ndarray | None = None) -> Law:
        """The law of one group; `theta` (draws, parameters) of `refit` gives arrays."""
        theta = self.theta if theta is None else theta
        alpha, beta = theta[..., 0], theta[..., 1]
        e, a, b = (theta[..., 2 + 3 * group + part] for part in range(3))
        with np.errstate(over="ignore"):  # A and B of an undetermined exponent may be infinite
            return Law(np.exp(e), np.exp(a + alpha * self.center[0]), alpha, np.exp(b + beta * self.center[1]), beta)

    def predicted(self) -> np.ndarray:
        """log L at each point, (points,)."""
        return self._log_loss(self.theta[None])[0][0]

    def refit(self, weights: np.ndarray) -> np.ndarray:
        """theta (draws, parameters) with the points weighted by `weights` (draws, points), each from the fit of all."""
        blocks = np.array_split(weights, -(-weights.size // BLOCK)) if weights.size > BLOCK else [weights]
        return np.concatenate(
            [self._descend(np.repeat(self.theta[None], len(block), axis=0), block, 100)[0] for block in blocks]
        )

    def _log_loss(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """log L and the shares of E, A/N^alpha and B/D^beta in L, each (draws, points)."""
        e, a, b = (np.take(theta, 2 + 3 * self.points.group + part, axis=1) for part in range(3))
        terms = np.stack([e, a - theta[:, :1] * self.x, b - theta[:, 1:2] * self.y])
        top = terms.max(axis=0)
        exponentials = np.exp(terms - top)
        total = exponentials.sum(axis=0)
        return top + np.log(total), *(exponentials / total)

    def _value_and_slope(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        log_loss, *shares = self._log_loss(theta[None])
        residual = self.target - log_loss[0]
        pull = -np.clip(residual, -DELTA, DELTA)
        slope = np.empty_like(theta)
        slope[0], slope[1] = -(pull * shares[1][0] * self.x).sum(), -(pull * shares[2][0] * self.y).sum()
        for group, part in enumerate(self.parts):
            slope[2 + 3 * group : 5 + 3 * group] = [(pull * share[0])[part].sum() for share in shares]
        return float(_huber(residual).sum()), slope

    def _descend(self, theta: np.ndarray, weights: np.ndarray, steps: int):
        """Damped, reweighted Gauss-Newton from each of `theta` (draws, parameters); the ends and their
        objectives (draws,)."""
        draws = len(theta)
        target = np.broadcast_to(self.target, (draws, len(self.target)))
        weights = np.broadcast_to(weights, target.shape)
        ends, values = theta.copy(), np.empty(draws)
        at, damping = np.arange(draws), np.full(draws, 1e-4)  # those that still move
        log_loss, *shares = self._log_loss(theta)
        value = (weights * _huber(target - log_loss)).sum(axis=1)
        for _ in range(steps):
            normal, pull = self._normal_equations(target - log_loss, shares, weights)
            diagonal = np.einsum("bii->bi", normal)
            diagonal += damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True)
            tried = theta + np.clip(np.linalg.solve(normal, pull[..., None])[..., 0], -1, 1)
            tried_log_loss, *tried_shares = self._log_loss(tried)
            tried_value = (weights * _huber(target - tried_log_loss)).sum(axis=1)
            better = tried_value <= value
            moving = np.where(better, value - tried_value > 1e-9 * value, damping < 1e3)
            theta = np.where(better[:, None], tried, theta)
            log_loss = np.where(better[:, None], tried_log_loss, log_loss)
            shares = [np.where(better[:, None], new, old) for new, old in zip(tried_shares, shares)]
            value = np.where(better, tried_value, value)
            damping = np.clip(np.where(better, damping / 3, damping * 10), 1e-10, 1e6)
            ends[at], values[at] = theta, value
            if not moving.any():
                break
            at, theta, damping, value, log_loss, target, weights = (
                each[moving] for each in (at, theta, damping, value, log_loss, target, weights)
            )
            shares = [share[moving] for share in shares]
        return ends, values

    def _normal_equations(self, residual: np.ndarray, shares: list[np.ndarray], weights: np.ndarray):
        """J'WJ (draws, parameters, parameters) and J'Wr (draws, parameters), W the weights of Huber's loss."""
        size = 2 + 3 * len(self.parts)
        normal, pull = np.zeros((len(residual), size, size)), np.zeros((len(residual), size))
        factor = weights * np.minimum(1, DELTA / np.maximum(np.abs(residual), 1e-300))
        floor, by_n, by_d = shares
        for group, part in enumerate(self.parts):
            columns = [
                -self.x[part] * by_n[:, part],
                -self.y[part] * by_d[:, part],
                floor[:, part],
                by_n[:, part],
                by_d[:, part],
            ]
            jacobian = np.stack(columns, axis=1)
            weighted = jacobian * factor[:, None, part]
            at = [0, 1, *range(2 + 3 * group, 5 + 3 * group)]
            normal[:, np.array(at)[:, None], at] += weighted @ jacobian.transpose(0, 2, 1)
            pull[:, at] += (weighted @ residual[:, part, None])[..., 0]
        return normal, pull

    def _search(self) -> np.ndarray:
        """Starts (starts, parameters): the lowest local minima of the profiled objective over the grid of exponents."""
        size = len(EXPONENTS)
        alpha, beta = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
        theta, value = np.empty((size**2, 2 + 3 * len(self.parts))), np.zeros(size**2)
        theta[:, 0], theta[:, 1] = alpha, beta
        for group, part in enumerate(self.parts):
            scale = np.exp(-self.target[part])  # relative residuals are those of the logarithm, to first order
            basis = np.stack(
                [
                    np.broadcast_to(scale, (size**2, len(part))),
                    np.exp(-alpha[:, None] * self.x[part]) * scale,
                    np.exp(-beta[:, None] * self.y[part]) * scale,
                ],
                axis=1,
            )
            factor = np.ones((size**2, len(part)))
            for _ in range(8):
                coefficients = _nonnegative(basis, factor)
                residual = 1 - np.einsum("gkn,gk->gn", basis, coefficients)
                factor = np.minimum(1, DELTA / np.maximum(np.abs(residual), 1e-300))
            value += _huber(residual).sum(axis=1)
            theta[:, 2 + 3 * group : 5 + 3 * group] = np.log(
                np.maximum(coefficients, 1e-3 * coefficients.max(axis=1, keepdims=True))
            )
        padded = np.pad(value.reshape(size, size), 1, constant_values=np.inf)
        around = [padded[1 + i : size + 1 + i, 1 + j : size + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
        minima = np.flatnonzero(padded[1:-1, 1:-1] <= np.min(around, axis=0))
        lowest = minima[np.argsort(value[minima])][:STARTS]
        others = np.argsort(value)[: STARTS - len(lowest)]
        return theta[np.concatenate([lowest, others])]


def _huber(residual: np.ndarray) -> np.ndarray:
    size = np.abs(residual)
    return np.where(size < DELTA, residual**2 / 2, DELTA * (size - DELTA / 2))


def _nonnegative(basis: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Coefficients (cells, 3) >= 0 that bring basis (cells, 3, points) nearest to 1 under weights `factor` (cells,
    points).

    Of three coefficients the active sets are few: the best of all that are feasible is the solution.
    """
    weighted = basis * factor[:, None]
    normal, pull = weighted @ basis.transpose(0, 2, 1), weighted.sum(axis=2)
    best, lowest = np.zeros(pull.shape), np.zeros(len(pull))
    for active in ([0, 1, 2], [0, 1], [0, 2], [1, 2], [0], [1], [2]):
        matrix = normal[:, np.array(active)[:, None], active]
        matrix = matrix + 1e-13 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(len(active))
        found = np.linalg.solve(matrix, pull[:, active, None])[..., 0]
        value = -0.5 * np.einsum("gi,gi->g", found, pull[:, active])
        better = (found >= 0).all(axis=1) & (value < lowest)
        lowest[better] = value[better]
        full = np.zeros(pull.shape)
        full[:, active] = found
        best[better] = full[better]
    return best
