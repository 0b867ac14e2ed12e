"""The Gaussian process: what it expects of data that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from vram_search.search.gp import surrogate
from vram_search.search.gp.surrogate import (
    BLOCK,
    OWN_NOISE,
    Array,
    Surrogate,
    Task,
    log_expected_improvement,
    matern,
    normal_cdf,
    solve_cholesky,
    solve_lower,
)

ONE_DIMENSION = np.array([1.0])


def line(*values: float) -> Array:
    return np.array(values, dtype=float).reshape(-1, 1)


def valley(points: Array) -> Array:
    return np.asarray((points[:, 0] - 0.5) ** 2)


def fitted(points: Array, losses: Array, *tasks: Task) -> Surrogate:
    return Surrogate(points, losses, np.full(len(losses), 1e-6), tasks, ONE_DIMENSION)


def task(losses: Array, points: Array) -> Task:
    return Task(points, (losses - losses.mean()) / losses.std())


EVERYWHERE = np.linspace(-2, 2, 41).reshape(-1, 1)


def test_expectation_goes_through_the_data_and_is_sure_of_it() -> None:
    points = line(-2, -1, 0, 1, 2)
    means, deviations = fitted(points, valley(points)).predict(points)
    assert means == pytest.approx(valley(points), abs=0.15)
    _, between = fitted(points, valley(points)).predict(line(1.5))
    assert (deviations < between).all()


def test_predictions_equal_those_of_scikit_learn_with_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(surrogate, "STRETCHES", (1.0,))
    draw = np.random.default_rng(0)
    points, new = draw.normal(size=(80, 3)), draw.normal(size=(40, 3))
    losses = np.sin(points).sum(axis=1) + draw.normal(scale=0.1, size=80)
    noise, scales = draw.uniform(1e-6, 0.1, size=80), np.array([0.6, 1.5, 3.0])
    means, deviations = Surrogate(points, losses, noise, (), scales).predict(new)

    center, spread = losses.mean(), losses.std()
    regressor = GaussianProcessRegressor(
        Matern(length_scale=scales, nu=2.5), alpha=OWN_NOISE + noise / spread**2, optimizer=None
    )
    regressor.fit(points, (losses - center) / spread)
    expected_means, expected_deviations = regressor.predict(new, return_std=True)
    np.testing.assert_allclose(means, center + spread * expected_means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(deviations, spread * expected_deviations, rtol=1e-7)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("columns", [(), (7,)])
def test_triangular_systems_are_solved(size: int, columns: tuple[int, ...]) -> None:
    draw = np.random.default_rng(size)
    root, values = draw.normal(size=(size, size)), draw.normal(size=(size, *columns))
    matrix = root @ root.T + size * np.eye(size)
    factor = np.linalg.cholesky(matrix)
    np.testing.assert_allclose(factor @ solve_lower(factor, values), values, atol=1e-9)
    np.testing.assert_allclose(matrix @ solve_cholesky(factor, values), values, atol=1e-9)


def test_far_from_the_data_the_mean_and_the_losses_deviation_are_expected() -> None:
    points = line(-2, -1, 0, 1, 2)
    losses = valley(points)
    means, deviations = fitted(points, losses).predict(line(1e3))
    assert means == pytest.approx([losses.mean()])
    assert deviations == pytest.approx([losses.std()])


def test_noisy_loss_draws_the_expectation_less_than_a_sure_one() -> None:
    points, losses = line(-1, 0, 1), np.array([0.0, 1.0, 0.0])
    sure = Surrogate(points, losses, np.array([1e-6] * 3), (), ONE_DIMENSION)
    noisy = Surrogate(points, losses, np.array([1e-6, 1.0, 1e-6]), (), ONE_DIMENSION)
    assert noisy.predict(line(0))[0] < sure.predict(line(0))[0] - 0.3


def test_related_task_tells_where_this_search_has_not_been() -> None:
    points = line(-2, -1, 1, 2)
    alone = fitted(points, valley(points))
    related = fitted(points, valley(points), task(valley(EVERYWHERE), EVERYWHERE))
    error = [abs(one.predict(line(0.5))[0][0] - 0.0) for one in (alone, related)]
    assert related.correlation == 0.9
    assert error[1] < error[0] / 2


def test_unrelated_task_is_ignored() -> None:
    points = np.linspace(-2, 2, 12).reshape(-1, 1)
    other = task(-valley(EVERYWHERE), EVERYWHERE)
    surrogate = fitted(points, valley(points), other)
    assert surrogate.correlation == 0.0
    alone = fitted(points, valley(points))
    assert surrogate.predict(EVERYWHERE)[0] == pytest.approx(alone.predict(EVERYWHERE)[0], abs=0.3)


@pytest.mark.parametrize("losses", [[], [0.0], [0.5], [0.5, 0.5], [math.log(1e-9), 0.3]])
@pytest.mark.parametrize("is_told", [False, True])
def test_predictions_of_few_or_equal_losses_are_finite(losses: list[float], is_told: bool) -> None:
    points = line(*range(len(losses)))
    tasks = [task(valley(EVERYWHERE), EVERYWHERE)] if is_told else []
    means, deviations = fitted(points, np.array(losses), *tasks).predict(EVERYWHERE)
    assert np.isfinite(means).all() and np.isfinite(deviations).all()
    assert (deviations > 0).all()
    gains = log_expected_improvement(means, deviations, min(losses, default=0.0))
    assert np.isfinite(gains).all()


def test_equal_points_with_different_losses_are_no_fault() -> None:
    points = line(0, 0, 0, 0)
    means, _ = fitted(points, np.array([0.1, 0.2, 0.3, 0.4])).predict(line(0))
    assert means == pytest.approx([0.25], abs=0.01)


def test_one_loss_is_as_telling_at_one_nat_as_elsewhere() -> None:
    """The logarithm of a loss of 1 is 0."""
    tasks = task(valley(EVERYWHERE), EVERYWHERE)
    _, at_one = fitted(line(0), np.array([0.0]), tasks).predict(line(2))
    _, at_two = fitted(line(0), np.array([math.log(2)]), tasks).predict(line(2))
    assert at_one == pytest.approx(at_two)


def test_matern_kernel_falls_from_one_and_is_symmetric() -> None:
    kernel = matern(EVERYWHERE, EVERYWHERE, ONE_DIMENSION)
    assert np.diag(kernel) == pytest.approx(np.ones(len(EVERYWHERE)))
    assert np.allclose(kernel, kernel.T)
    assert (np.diff(kernel[0]) < 0).all()


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.0, 0.5), (-1.0, 2.0), (2.0, 1.0)])
def test_expected_improvement_is_that_of_draws(mean: float, deviation: float) -> None:
    draws = np.random.default_rng(0).normal(mean, deviation, 1_000_000)
    expected = np.maximum(0.0 - draws, 0.0).mean()
    (gain,) = log_expected_improvement(np.array([mean]), np.array([deviation]), 0.0)
    assert math.exp(gain) == pytest.approx(expected, rel=0.02)


def test_hopeless_points_are_told_apart() -> None:
    """Ten deviations above the reference as well as a hundred: no two gains are alike."""
    means = np.linspace(0, 100, 1001)
    gains = log_expected_improvement(means, np.ones_like(means), 0.0)
    assert (np.diff(gains) < 0).all()
    assert (np.diff(gains, 2) < 1e-3).all(), "without a step between the two formulas"


def test_normal_distribution_is_that_of_math() -> None:
    z = np.linspace(-6, 6, 121)
    expected = [0.5 * (1 + math.erf(one / math.sqrt(2))) for one in z]
    assert normal_cdf(z) == pytest.approx(expected, abs=1e-12)
