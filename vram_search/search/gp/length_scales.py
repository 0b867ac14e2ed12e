"""Learns from earlier searches over which distances losses change.

The length scales of the surrogate's kernel are those that make the losses of earlier searches most
likely, drawn to the usual ones by a log-normal prior (maximum a posteriori; Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, section 5.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vram_search.search.gp.surrogate import TASK_NOISE, Array, Task, matern_of, solve_lower

PRIOR_DEVIATION = 0.4
"""Standard deviation of a scale's logarithm around the usual one (docs/experiments.md)."""
STEP = 0.36
"""Steps of the logarithm: a factor of about 1.4."""
MOST_ROUNDS = 6


def learned_scales(tasks: Sequence[Task], usual: Array) -> Array:
    """Length scales [d] of the likeliest kernel; the usual ones [d] without earlier searches.

    A coordinate in which no task varies keeps its scale. Coordinates are moved in turn, up or down
    by one step, until none gains or the rounds are used up.
    """
    squares = [_squared_distances(task, usual) for task in tasks]
    varied = [d for d in range(len(usual)) if any(one[d].any() for one in squares)]
    shifts = np.zeros(len(usual))
    best = _penalty(shifts, tasks, squares)
    for _ in range(MOST_ROUNDS if tasks else 0):
        before = best
        for d in varied:
            for step in (STEP, -STEP):
                moved = shifts.copy()
                moved[d] += step
                penalty = _penalty(moved, tasks, squares)
                if penalty < best:
                    best, shifts = penalty, moved
                    break
        if best == before:
            break
    scaled: Array = usual * np.exp(shifts)
    return scaled


def _squared_distances(task: Task, scales: Array) -> Array:
    """Squared distances [d, n, n] in units of the scales."""
    gaps = task.points.T[:, :, None] - task.points.T[:, None, :]
    squared: Array = (gaps / scales[:, None, None]) ** 2
    return squared


def _penalty(shifts: Array, tasks: Sequence[Task], squares: Sequence[Array]) -> float:
    """Negative logarithm of likelihood times prior, up to a constant.

    Args:
        shifts: [d], logarithms of the factors of the usual scales.
    """
    penalty = float((shifts**2).sum()) / (2 * PRIOR_DEVIATION**2)
    for task, squared in zip(tasks, squares, strict=True):
        kernel = matern_of(np.tensordot(np.exp(-2 * shifts), squared, axes=1))
        factor = np.linalg.cholesky(kernel + TASK_NOISE * np.eye(len(task.losses)))
        half = solve_lower(factor, task.losses)
        penalty += float(half @ half) / 2 + float(np.log(np.diag(factor)).sum())
    return penalty
