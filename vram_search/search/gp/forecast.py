"""Forecasts the final loss of trials that were stopped, or are running, from their rungs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vram_search.search.gp.surrogate import Array
from vram_search.search.observations import Observation

UNCERTAIN_AT = (1 / 9, 1 / 3, 2 / 3, 1.0)
UNCERTAIN_SHARE = (0.45, 0.2, 0.05, 0.01)
"""Standard deviation of a forecast at these shares of a run, as a share of how much losses fall
from the first rung on (logarithms): about as on both tasks in bench/curves/tables. As trials
complete, their own residuals take over."""
FIRST_DECLINE = 0.2
"""Fall of the logarithm of a loss from the first rung to the end, before a trial is complete."""
FINAL_VARIANCE, DIVERGED_VARIANCE = 1e-6, 1e-2


@dataclass(frozen=True)
class Forecast:
    """Logarithms of the final losses [n]: known, or forecast with a variance [n]."""

    losses: Array
    variances: Array


def forecast(trials: Sequence[Observation], rungs: Sequence[float]) -> Forecast:
    """Final losses by a line through the complete trials' losses at each rung and at the end.

    Args:
        trials: each has a loss or diverged; a diverged one counts as the worst of the others.
        rungs: shares of a run.
    """
    lines = _lines([trial for trial in trials if trial.final is not None], rungs)
    losses, variances = [], []
    for trial in trials:
        if trial.final is not None:
            losses.append(log_loss(trial.final))
            variances.append(FINAL_VARIANCE)
        elif trial.diverged or not trial.losses:
            losses.append(math.inf)
            variances.append(DIVERGED_VARIANCE)
        else:
            line = lines[min(len(trial.losses), len(lines)) - 1]
            at_end = line.offset + line.slope * log_loss(trial.losses[-1])
            losses.append(min(at_end, *(log_loss(loss) for loss in trial.losses)))
            variances.append(line.variance)
    worst = max((loss for loss in losses if math.isfinite(loss)), default=0.0)
    finite = [loss if math.isfinite(loss) else worst for loss in losses]
    return Forecast(np.array(finite), np.array(variances))


def log_loss(loss: float) -> float:
    """Logarithm of a loss that may be 0."""
    return math.log(max(loss, 1e-9))


@dataclass(frozen=True)
class _Line:
    """Final loss = offset + slope x loss at a rung, in logarithms."""

    offset: float
    slope: float
    variance: float


def _lines(complete: Sequence[Observation], rungs: Sequence[float]) -> list[_Line]:
    """A line for each rung."""
    declines = [
        log_loss(trial.losses[0]) - log_loss(trial.final)
        for trial in complete
        if trial.losses and trial.final is not None
    ]
    decline = max(float(np.mean(declines)), 1e-3) if declines else FIRST_DECLINE
    shares = np.interp(rungs, UNCERTAIN_AT, UNCERTAIN_SHARE)
    return [
        _fit_line(
            [
                (log_loss(trial.losses[rung]), log_loss(trial.final))
                for trial in complete
                if len(trial.losses) > rung and trial.final is not None
            ],
            decline * float(shares[rung]),
        )
        for rung in range(len(rungs))
    ]


def _fit_line(pairs: Sequence[tuple[float, float]], deviation: float) -> _Line:
    """Least squares, drawn towards slope 1 and the usual deviation while there are few pairs."""
    if not pairs:
        return _Line(0.0, 1.0, deviation**2)
    at_rung, final = np.array(pairs).T
    gaps, ends = at_rung - at_rung.mean(), final - final.mean()
    slope = 1.0
    if len(pairs) > 1:
        weight = max(float((gaps**2).mean()), 1e-12)
        slope = float((gaps @ ends + weight) / (gaps @ gaps + weight))
    offset = float(final.mean() - slope * at_rung.mean())
    residuals = final - offset - slope * at_rung
    variance = float(residuals @ residuals + 3 * deviation**2)
    return _Line(offset, slope, variance / (len(pairs) + 3))
