"""What to train next, and whether to go on, by expected improvement per share of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vram_search.search.gp.features import SCALES, features
from vram_search.search.gp.surrogate import Array, Surrogate, Task, log_expected_improvement
from vram_search.search.gp.transfer import without_tail
from vram_search.search.observations import Observation
from vram_search.spec import Hyperparameters, SearchSpace

FEW = 5
"""Losses, below which none is taken for an outlier."""
NEW_SHARE = 0.4
"""Of a run, that a new point takes in the mean: most are stopped on the way."""
PERSEVERANCE = 2.0
"""Added to the logarithm of the running trial's rate: it is stopped for a clearly better use of
the time only (replayed with 1, 2 and 3: docs/experiments.md)."""
KEPT_SHARE = 1 / 3
"""Of the trials at a rung, that go on in any case: on real curves the best third at 1/9 of a run
holds all of the five best (docs/experiments.md)."""
KNOWN_FIRST = 2
"""Points that earlier searches recommend, before the opening."""
UNCERTAIN_AT = (1 / 9, 1 / 3, 2 / 3, 1.0)
UNCERTAIN_SHARE = (0.45, 0.2, 0.05, 0.01)
"""Standard deviation of a final loss as expected at these shares of a run, as a share of how much
losses fall from the first rung on (logarithms): about as on both tasks in bench/curves/tables. As
trials complete, their own residuals take over."""
FIRST_DECLINE = 0.2
"""Of logarithmic losses from the first rung to the end, before a trial is complete."""

Fits = Callable[[Hyperparameters], bool]


@dataclass(frozen=True)
class _Forecast:
    """Logarithmic final losses [n] of the trials seen: known, or expected with a variance."""

    losses: Array
    noise: Array


@dataclass(frozen=True)
class Suggestion:
    """What to train next.

    Attributes:
        choice: a new point, or one that was stopped and deserves to go on from its start; None
            where neither is left.
        gain: share by which one more run, of a candidate or of a stopped trial, is expected to
            lower the best eval_loss at most; infinite before the first loss, None of the opening.
    """

    choice: Hyperparameters | Observation | None
    gain: float | None


class GpStrategy:
    """Suggestion from trials seen so far.

    Args:
        rungs: shares of a run at which a trial is evaluated, ascending.
        tasks: earlier searches.
        opening: points to begin with; after the first that earlier searches recommend, where
            there are any.
    """

    def __init__(
        self,
        space: SearchSpace,
        rungs: Sequence[float],
        tasks: Sequence[Task],
        opening: Sequence[Hyperparameters],
    ) -> None:
        self._rungs, self._tasks, self._opening = tuple(rungs), tasks, opening
        self._longest = max(space.cutoff_len)

    def propose(
        self, seen: Sequence[Observation], candidates: Sequence[Hyperparameters], fits: Fits
    ) -> Suggestion:
        """The best use of the time, by one fit of the surrogate at most.

        Args:
            candidates: points not seen yet.
            fits: whether a point fits the card; the first candidate is proposed where none does.
        """
        if len(seen) >= KNOWN_FIRST or not self._tasks:
            known = {trial.hyperparameters for trial in seen}
            for point in self._opening:
                if point not in known and fits(point):
                    return Suggestion(point, None)
        view = self._view(seen)
        rates = self._rates_of_stopped(view, seen, None)
        again = max(rates, key=lambda place: rates[place], default=None)
        new = self._best_new(view, candidates, fits)
        gain = _gain(view, rates.values(), new)
        if again is not None and (new is None or rates[again] > new[1]):
            return Suggestion(seen[again], gain)
        return Suggestion(new[0] if new is not None else next(iter(candidates), None), gain)

    def should_continue(
        self,
        seen: Sequence[Observation],
        number: int,
        candidates: Sequence[Hyperparameters],
        fits: Fits,
    ) -> bool:
        """Whether the running trial is the best use of the time to its next rung and beyond."""
        running = (i for i, one in enumerate(seen) if one.number == number and one.is_open)
        current = next(running, None)
        if current is None or _is_among_the_best(seen[current], seen):
            return True
        view = self._view(seen)
        rates = self._rates_of_stopped(view, seen, number)
        own = rates.pop(current) + PERSEVERANCE
        new = self._best_new(view, candidates, fits)
        return own >= max([*rates.values(), *([new[1]] if new else [])], default=-math.inf)

    def _best_new(
        self, view: _View, candidates: Sequence[Hyperparameters], fits: Fits
    ) -> tuple[Hyperparameters, float] | None:
        """The candidate with the highest rate of those that fit, and its rate."""
        if not candidates:
            return None
        means, deviations = view.surrogate.predict(features(candidates, self._longest))
        if view.reference is None:
            rates = -means
        else:
            gains = log_expected_improvement(means, deviations, view.reference)
            rates = gains - math.log(NEW_SHARE)
        ranked = np.argsort(-rates, kind="stable")
        place = next((i for i in ranked if fits(candidates[i])), None)
        return (candidates[place], float(rates[place])) if place is not None else None

    def _rates_of_stopped(
        self, view: _View, seen: Sequence[Observation], running: int | None
    ) -> dict[int, float]:
        """Rates of the trials that could go on, by place; all but the running one begin anew."""
        places = [place for place, trial in enumerate(seen) if trial.is_open]
        if not places or view.reference is None:
            return {}
        points = features([seen[place].hyperparameters for place in places], self._longest)
        means, deviations = view.surrogate.predict(points)
        gains = log_expected_improvement(means, deviations, view.reference)
        return {
            place: float(gain) - math.log(self._share_left(seen[place], running))
            for place, gain in zip(places, gains, strict=True)
        }

    def _share_left(self, trial: Observation, running: int | None) -> float:
        if trial.number != running:
            return 1.0
        return 1.0 - self._rungs[min(len(trial.losses), len(self._rungs)) - 1]

    def _view(self, seen: Sequence[Observation]) -> _View:
        told = [t for t in seen if t.losses or t.final is not None or t.diverged]
        forecast = self._forecast(told)
        points = features([trial.hyperparameters for trial in told], self._longest)
        losses = forecast.losses
        limited = without_tail(losses) if len(losses) >= FEW else losses
        surrogate = Surrogate(points, limited, forecast.noise, self._tasks, SCALES)
        finals = [math.log(max(t.final, 1e-9)) for t in told if t.final is not None]
        reference = min(finals, default=None)
        if reference is None and any(trial.losses for trial in told):
            means, deviations = surrogate.predict(points)
            reference = float((means + 0.3 * deviations).min())
        return _View(surrogate, reference)

    def _forecast(self, told: Sequence[Observation]) -> _Forecast:
        """Final losses: a line through the complete trials' losses at each rung and at the end."""
        complete = [trial for trial in told if trial.final is not None]
        fallen = [
            _log(t.losses[0]) - _log(t.final) for t in complete if t.losses and t.final is not None
        ]
        decline = max(float(np.mean(fallen)), 1e-3) if fallen else FIRST_DECLINE
        shares = np.interp(self._rungs, UNCERTAIN_AT, UNCERTAIN_SHARE)
        lines = [
            _line(
                [
                    (_log(trial.losses[rung]), _log(trial.final))
                    for trial in complete
                    if len(trial.losses) > rung and trial.final is not None
                ],
                decline * float(shares[rung]),
            )
            for rung in range(len(self._rungs))
        ]
        losses, noise = [], []
        for trial in told:
            if trial.final is not None:
                losses.append(_log(trial.final))
                noise.append(1e-6)
            elif trial.diverged or not trial.losses:
                losses.append(math.inf)
                noise.append(1e-2)
            else:
                line = lines[min(len(trial.losses), len(lines)) - 1]
                at_end = line.offset + line.slope * _log(trial.losses[-1])
                losses.append(min(at_end, *(_log(loss) for loss in trial.losses)))
                noise.append(line.variance)
        worst = max((loss for loss in losses if math.isfinite(loss)), default=0.0)
        return _Forecast(
            np.array([loss if math.isfinite(loss) else worst for loss in losses]), np.array(noise)
        )


def _gain(
    view: _View, stopped: Iterable[float], new: tuple[Hyperparameters, float] | None
) -> float:
    """`Suggestion.gain`, of the rates of stopped trials and the best new point with its own."""
    if view.reference is None:
        return math.inf
    logarithms = [*stopped, *([new[1] + math.log(NEW_SHARE)] if new else [])]
    return math.exp(max(logarithms, default=-math.inf))


def _is_among_the_best(trial: Observation, seen: Sequence[Observation]) -> bool:
    """Whether it is in the best third of all that reached its rung."""
    rung = len(trial.losses) - 1
    losses = sorted(one.losses[rung] for one in seen if len(one.losses) > rung)
    return trial.losses[rung] <= losses[math.ceil(len(losses) * KEPT_SHARE) - 1]


@dataclass(frozen=True)
class _View:
    """The surrogate, and the loss to be improved; None before the first loss."""

    surrogate: Surrogate
    reference: float | None


@dataclass(frozen=True)
class _Line:
    """Final loss = offset + slope x loss at a rung, logarithms."""

    offset: float
    slope: float
    variance: float


def _line(pairs: Sequence[tuple[float, float]], deviation: float) -> _Line:
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


def _log(loss: float) -> float:
    return math.log(max(loss, 1e-9))
