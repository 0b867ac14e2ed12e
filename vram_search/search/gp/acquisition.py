"""Chooses what to train next, and whether to continue, by expected improvement per share of a run.

Expected improvement per cost as in Snoek, Larochelle and Adams, Practical Bayesian Optimization
(2012), section 3.2; trials that run without a loss yet count with the mean that is predicted for
them (Ginsbourger, Le Riche and Carraro, Kriging Is Well-Suited to Parallelize Optimization, 2010:
"kriging believer").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vram_search.search.gp.features import features, learnt, scales, surrogate_dimensions
from vram_search.search.gp.forecast import FINAL_VARIANCE, forecast, log_loss
from vram_search.search.gp.length_scales import learned_scales
from vram_search.search.gp.rules import GpRules
from vram_search.search.gp.surrogate import Array, Surrogate, log_expected_improvement
from vram_search.search.gp.transfer import tasks, without_tail
from vram_search.search.observations import Observation
from vram_search.search.problem import Problem
from vram_search.spec import Hyperparameters
from vram_search.spec.hyperparameters import Frame

OUTLIERS_FROM = 5
"""Losses from which on the worst of them are limited."""
MOST_KNOWN = 400
"""Trials that the surrogate is fitted to; its time grows with their third power."""
MOST_STOPPED = 200
"""Stopped trials of each rung, those with the lowest losses, that may be trained again."""
FIRST_REFERENCE_SD = 0.3
"""Before a trial is complete, this many standard deviations above the lowest forecast are to be
improved on."""


@dataclass(frozen=True)
class Suggestion:
    """The point to train next.

    Attributes:
        choice: a new point, or one that was stopped and deserves to be trained again, to its end;
            None where neither is left.
        gain: share by which one more run, of a candidate or of a stopped trial, is expected to
            lower the best eval_loss at most; infinite before the first loss, None for an initial
            point.
    """

    choice: Hyperparameters | Observation | None
    gain: float | None


class Acquisition:
    """Ranks new points and stopped trials by the use that they make of the time."""

    def __init__(self, problem: Problem, rules: GpRules) -> None:
        self._problem, self._rules = problem, rules
        self._dimensions = surrogate_dimensions(problem.space)
        self._learnt = learnt(self._dimensions)
        self._frame = Frame(max(problem.space.cutoff_len), models=problem.models)
        self._tasks = tasks(problem.source_tasks, problem.hidden_size, self._dimensions)
        self._scales = learned_scales(self._tasks, scales(self._dimensions))

    def propose(
        self, seen: Sequence[Observation], candidates: Sequence[Hyperparameters]
    ) -> Suggestion:
        """The best use of the time.

        Args:
            candidates: points not seen yet; the first is proposed if no point is feasible.
        """
        if len(seen) >= self._rules.recommended_first or not self._tasks:
            known = {trial.hyperparameters for trial in seen}
            # Points of the model on the card come first: loading another takes time.
            for point in sorted(self._problem.initial_points, key=self._loads):
                if point not in known and self._problem.is_feasible(point):
                    return Suggestion(point, None)
        view = self._view(seen)
        rates = self._rates_of_stopped(view, seen, None)
        again = max(rates, key=lambda place: rates[place], default=None)
        new = self._best_new(view, candidates)
        gain = self._gain(view, [self._without_model_cost(seen[i], rates[i]) for i in rates], new)
        if again is not None and (new is None or rates[again] > new[1]):
            return Suggestion(seen[again], gain)
        return Suggestion(new[0] if new is not None else next(iter(candidates), None), gain)

    def _loads(self, point: Hyperparameters) -> bool:
        """True if a trial of the point first loads its base model."""
        return not self._problem.is_resident(point)

    def should_continue(
        self, seen: Sequence[Observation], number: int, candidates: Sequence[Hyperparameters]
    ) -> bool:
        """True if the running trial is the best use of the time to its next rung and beyond."""
        running = (i for i, one in enumerate(seen) if one.number == number and one.is_unfinished)
        current = next(running, None)
        if current is None or self._is_always_kept(seen[current], seen):
            return True
        view = self._view(seen)
        rates = self._rates_of_stopped(view, seen, number)
        own = rates.pop(current) + self._rules.running_trial_bonus
        new = self._best_new(view, candidates)
        return own >= max([*rates.values(), *([new[1]] if new else [])], default=-math.inf)

    def _is_always_kept(self, trial: Observation, seen: Sequence[Observation]) -> bool:
        rung = len(trial.losses) - 1
        losses = [one.losses[rung] for one in seen if len(one.losses) > rung]
        return trial.losses[rung] <= self._rules.kept_up_to(losses)

    def _best_new(
        self, view: _View, candidates: Sequence[Hyperparameters]
    ) -> tuple[Hyperparameters, float] | None:
        """The feasible candidate with the highest rate, and its rate."""
        if not candidates:
            return None
        means, deviations = view.surrogate.predict(self._features(candidates))
        if view.reference is None:
            rates = -means - np.array([self._loads(point) for point in candidates], dtype=float)
        else:
            gains = log_expected_improvement(means, deviations, view.reference)
            rates = gains - self._log_costs(candidates)
        ranked = np.argsort(-rates, kind="stable")
        place = next((i for i in ranked if self._problem.is_feasible(candidates[i])), None)
        return (candidates[place], float(rates[place])) if place is not None else None

    def _log_costs(self, points: Sequence[Hyperparameters]) -> Array:
        """Logarithms [n] of the prices of new trials, most of which are stopped early."""
        share = self._rules.new_trial_share
        lengths = [self._problem.space.length_share(point) for point in points]
        if self._problem.model_costs is None:
            return math.log(share) + np.log(lengths)
        pairs = zip(points, lengths, strict=True)
        costs = [self._problem.cost(point, share * one, starts=True) for point, one in pairs]
        return np.asarray(np.log(costs))

    def _rates_of_stopped(
        self, view: _View, seen: Sequence[Observation], running: int | None
    ) -> dict[int, float]:
        """Rates by place of the stopped trials, which would start again, and of the running one,
        which goes on from where it is."""
        current = (i for i, t in enumerate(seen) if t.is_unfinished and t.number == running)
        places = sorted({*_promising(seen), *current})
        if not places or view.reference is None:
            return {}
        means, deviations = view.surrogate.predict(
            self._features([seen[place].hyperparameters for place in places])
        )
        gains = log_expected_improvement(means, deviations, view.reference)
        return {
            place: float(gain) - math.log(self._cost_left(seen[place], running))
            for place, gain in zip(places, gains, strict=True)
        }

    def _cost_left(self, trial: Observation, running: int | None) -> float:
        """Returns the price of the rest of the trial."""
        share = self._share_left(trial, running)
        starts = trial.number != running
        return self._problem.cost(trial.hyperparameters, share, starts=starts)

    def _share_left(self, trial: Observation, running: int | None) -> float:
        """Returns the rest of the trial as a share of the longest run."""
        length = self._problem.space.length_share(trial.hyperparameters)
        if trial.number != running:
            return length
        rungs = self._problem.rungs
        return length - rungs[min(len(trial.losses), len(rungs)) - 1]

    def _gain(
        self, view: _View, stopped: Iterable[float], new: tuple[Hyperparameters, float] | None
    ) -> float:
        """`Suggestion.gain` from the rates of stopped trials and of the best new point."""
        if view.reference is None:
            return math.inf
        best_new = []
        if new is not None:
            best_new = [new[1] + float(self._log_costs([new[0]])[0])]
        return math.exp(max([*stopped, *best_new], default=-math.inf))

    def _without_model_cost(self, trial: Observation, rate: float) -> float:
        """The rate of a stopped trial if all base models cost the same."""
        if self._problem.model_costs is None:
            return rate
        return rate + math.log(self._problem.cost(trial.hyperparameters, 1.0, starts=True))

    def _view(self, seen: Sequence[Observation]) -> _View:
        """The surrogate after all that was observed, with running trials at their prediction."""
        known = [t for t in seen if t.losses or t.final is not None or t.diverged]
        expected = forecast(known, self._problem.rungs)
        losses = expected.losses
        limited = without_tail(losses) if len(losses) >= OUTLIERS_FROM else losses
        kept = _informative(losses)
        limited, variances = limited[kept], expected.variances[kept]
        points = self._features([known[place].hyperparameters for place in kept])
        surrogate = Surrogate(points, limited, variances, self._tasks, self._scales, self._learnt)
        reference = min((log_loss(t.final) for t in known if t.final is not None), default=None)
        if reference is None and any(trial.losses for trial in known):
            means, deviations = surrogate.predict(points)
            reference = float((means + FIRST_REFERENCE_SD * deviations).min())
        pending = [trial.hyperparameters for trial in seen if trial.is_pending]
        if not pending:
            return _View(surrogate, reference)
        running = self._features(pending)
        believed, _ = surrogate.predict(running)
        with_pending = Surrogate(
            np.vstack([points, running]),
            np.concatenate([limited, believed]),
            np.concatenate([variances, np.full(len(pending), FINAL_VARIANCE)]),
            self._tasks,
            self._scales,
            self._learnt,
        )
        return _View(with_pending, float(believed.min()) if reference is None else reference)

    def _features(self, points: Sequence[Hyperparameters]) -> Array:
        return features(points, self._frame, self._dimensions)


def _promising(seen: Sequence[Observation]) -> list[int]:
    """Places of the stopped trials with the lowest losses at the rung where they stopped."""
    by_rung: dict[int, list[int]] = {}
    for place, trial in enumerate(seen):
        if trial.is_stopped:
            by_rung.setdefault(len(trial.losses), []).append(place)
    for places in by_rung.values():
        if len(places) > MOST_STOPPED:
            places.sort(key=lambda place: seen[place].losses[-1])
            del places[MOST_STOPPED:]
    return sorted(place for places in by_rung.values() for place in places)


def _informative(losses: Array) -> list[int]:
    """Places, in their order, of the trials that the surrogate is fitted to: all of them, or the
    best ones and others at equal distances by their rank."""
    if len(losses) <= MOST_KNOWN:
        return list(range(len(losses)))
    ranked = np.argsort(losses, kind="stable")
    best = MOST_KNOWN // 2
    others = np.linspace(best, len(ranked) - 1, MOST_KNOWN - best).round().astype(int)
    return sorted(map(int, ranked[[*range(best), *others]]))


@dataclass(frozen=True)
class _View:
    """The surrogate, and the loss to be improved on; None before the first loss."""

    surrogate: Surrogate
    reference: float | None
