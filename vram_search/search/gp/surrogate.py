"""A Gaussian process over hyperparameters that learns from this search and from earlier ones.

Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), chapters 2 and 5; several
tasks as in Bonilla, Chai and Williams, Multi-task Gaussian Process Prediction (2008), with one
correlation between this search and every other.

Notation (Rasmussen and Williams, algorithm 2.1; Optuna's `_gp/gp.py` uses the same letters):

    X [n, d]       points of this search and of the others
    y [n]          their standardized losses
    k(x, x')       Matern kernel with smoothness 5/2, times the correlation of the two searches
    Lambda [n]     noise variances
    K = k(X, X) + diag(Lambda)    `covariance`
    L L^T = K      Cholesky factor, `factor`
    alpha = K^-1 y = L^-T L^-1 y  `weights`
    log p(y | X) = -y^T alpha / 2 - sum_i log L_ii + constant
    k_* = k(x_*, X),  v = L^-1 k_*
    mean = k_*^T alpha,  variance = k(x_*, x_*) - v^T v
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Factor = NDArray[np.floating[Any]]
"""A lower triangular matrix, as numpy types the result of `cholesky`."""

CORRELATIONS = (0.0, 0.6, 0.9)
"""Between this search and earlier ones; the likeliest is taken."""
STRETCHES = (0.7, 1.2)
"""Factors of the length scales; the likeliest is taken."""
MODEL_STRETCHES = (1.0, 2.0, 4.0)
"""Further factors of the length scale between base models; the likeliest is taken. Losses at one
point of two models then correlate 0.32, 0.70 or 0.90, if they have the same size."""
FIRST_SPREAD = 0.1
"""Standard deviation of a search's losses (logarithms) while there is only one."""
ASYMPTOTIC_BELOW = -20.0
"""Standardized improvement z from which on expected improvement is computed by its asymptote."""
OWN_NOISE, TASK_NOISE = 0.01, 0.05
"""Noise variances of this search's and of other searches' losses, standardized."""
BLOCK = 64
"""Rows that a triangular system is solved by at a time."""


@dataclass(frozen=True)
class Task:
    """Finished trials of another search: points [n, d], losses [n] of mean 0 and deviation 1."""

    points: Array
    losses: Array


class Surrogate:
    """The Gaussian process, fitted to this search's losses and to other searches.

    Of a grid of length scales and correlations the most likely one is taken.

    Args:
        points: [n, d] of this search's trials.
        losses: [n], logarithms.
        noise: [n], variances of these losses on that scale.
        scales: [d], distances over which losses change.
        learnt: [d], marks the coordinates of base models; None: the search has one model.
    """

    def __init__(
        self,
        points: Array,
        losses: Array,
        noise: Array,
        tasks: Sequence[Task],
        scales: Array,
        learnt: Flags | None = None,
    ) -> None:
        self._points = np.vstack([points, *(task.points for task in tasks)])
        self._is_own = np.arange(len(self._points)) < len(points)
        owners = np.repeat(
            np.arange(len(tasks) + 1), [len(points), *(len(task.losses) for task in tasks)]
        )
        others = np.concatenate([np.zeros(0), *(task.losses for task in tasks)])
        best = -math.inf
        for stretched in _length_scales(scales, learnt):
            kernel = matern(self._points, self._points, stretched)
            for correlation in CORRELATIONS if tasks else CORRELATIONS[:1]:
                shared = np.where(owners[:, None] == owners[None, :], 1.0, correlation)
                covariance = kernel * shared
                expected = self._expected_by_others(covariance, others)
                center, spread = _scale(losses, expected)
                targets = np.concatenate([(losses - center) / spread, others])
                variances = np.where(self._is_own, OWN_NOISE, TASK_NOISE)
                variances[: len(losses)] += noise / spread**2
                covariance += np.diag(variances)
                factor = np.linalg.cholesky(covariance)
                weights = solve_cholesky(factor, targets)
                likelihood = (
                    -0.5 * float(targets @ weights)
                    - float(np.log(np.diag(factor)).sum())
                    - len(losses) * math.log(spread)
                )
                if likelihood >= best:
                    best = likelihood
                    self.correlation, self._scales = correlation, stretched
                    self._center, self._spread = center, spread
                    self._factor, self._weights = factor, weights

    def _expected_by_others(self, covariance: Array, others: Array) -> Array:
        """The other tasks' predictions [n] at this search's points, on their scale."""
        own = self._is_own
        if not len(others):
            return np.zeros(int(own.sum()))
        among = covariance[np.ix_(~own, ~own)] + TASK_NOISE * np.eye(len(others))
        weights = solve_cholesky(np.linalg.cholesky(among), others)
        expected: Array = covariance[np.ix_(own, ~own)] @ weights
        return expected

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Means and standard deviations [m] at points [m, d], on the losses' scale."""
        shared = np.where(self._is_own, 1.0, self.correlation)
        kernel = matern(points, self._points, self._scales) * shared
        v = solve_lower(self._factor, kernel.T)
        variance = np.maximum(1.0 - (v**2).sum(axis=0), 1e-9)
        return self._center + self._spread * (kernel @ self._weights), self._spread * np.sqrt(
            variance
        )


def _length_scales(scales: Array, learnt: Flags | None) -> Iterator[Array]:
    """Yields the length scales [d] to choose from."""
    for stretch in STRETCHES:
        if learnt is None or not learnt.any():
            yield scales * stretch
            continue
        for between_models in MODEL_STRETCHES:
            yield scales * np.where(learnt, between_models, stretch)


def _scale(losses: Array, expected: Array) -> tuple[float, float]:
    """Center and spread that bring this search's losses to the scale of the other tasks: as they
    deviate there at the same points, drawn towards their own deviation while they are few."""
    if not len(losses):
        return 0.0, 1.0
    own = float(losses.std()) if len(losses) > 1 else FIRST_SPREAD
    own = max(own, 1e-6)
    spread = own
    if expected.any() and len(losses) > 1:
        there = max(float(expected.std()), 0.15)
        spread = own * math.sqrt((len(losses) + 2) / (len(losses) * there**2 + 2))
    return float((losses - spread * expected).mean()), spread


def solve_lower(factor: Factor, values: Array) -> Array:
    """Solves L x = b for a lower triangular L [n, n] and b [n] or [n, m], by forward substitution
    in blocks. (scipy.linalg.solve_triangular would need scipy.)"""
    solution = np.empty_like(values)
    for start in range(0, len(factor), BLOCK):
        rows = slice(start, start + BLOCK)
        left = values[rows] - factor[rows, :start] @ solution[:start]
        solution[rows] = np.linalg.solve(factor[rows, rows], left)
    return solution


def solve_cholesky(factor: Factor, values: Array) -> Array:
    """Solves L L^T x = b for the Cholesky factor L [n, n] and b [n] or [n, m]."""
    # L^T with rows and columns reversed is lower triangular.
    half = solve_lower(factor, values)
    return solve_lower(factor.T[::-1, ::-1], half[::-1])[::-1]


def matern(one: Array, other: Array, scales: Array) -> Array:
    """Matern kernel with smoothness 5/2, [n, m] of points [n, d] and [m, d]."""
    squares = np.zeros((len(one), len(other)))
    for place, scale in enumerate(scales):  # [n, m, d] at once would take three times as long
        squares += (np.subtract.outer(one[:, place], other[:, place]) / scale) ** 2
    return matern_of(squares)


def matern_of(squares: Array) -> Array:
    """Matern kernel with smoothness 5/2 of squared distances."""
    distance = math.sqrt(5) * np.sqrt(squares)
    kernel: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return kernel


def log_expected_improvement(means: Array, deviations: Array, reference: float) -> Array:
    """Logarithm [n] of the expected improvement on the reference, of losses with these means and
    standard deviations [n].

    Far above the reference, where the difference of its two terms is lost to rounding, it is the
    first term of its asymptotic series.
    """
    z = (reference - means) / deviations
    density = -z * z / 2 - math.log(math.sqrt(2 * math.pi))
    far = z < ASYMPTOTIC_BELOW
    near = np.where(far, 0.0, z)
    share = np.where(far, 1.0, near * normal_cdf(near) + np.exp(np.where(far, 0.0, density)))
    logarithm: Array = np.log(deviations) + np.where(
        far, density - 2 * np.log(np.maximum(-z, 1.0)), np.log(share)
    )
    return logarithm


def normal_cdf(z: Array) -> Array:
    """Distribution function of the standard normal distribution, exact in its lower tail too."""
    return 0.5 * np.array([math.erfc(-one / math.sqrt(2)) for one in z])
