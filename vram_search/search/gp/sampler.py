"""The sampler and the pruner of strategy `gp`, for any Optuna study that minimizes a loss.

An example stands in docs/sampler.md.
"""

from __future__ import annotations

import copy
import math
import random
import threading
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from threadpoolctl import threadpool_limits

from vram_search.search.encoding import decode, distributions, encode
from vram_search.search.gp.acquisition import Acquisition
from vram_search.search.gp.candidates import candidates
from vram_search.search.gp.rules import GpRules
from vram_search.search.observations import Observation, Observer, merge_observations
from vram_search.search.problem import Problem
from vram_search.search.strategy import EXPECTED_GAIN, RETRY_OF
from vram_search.spec import Hyperparameters

ONE_THREAD = {"limits": 1, "user_api": "blas"}
"""The matrices are small: on busy cores BLAS's threads wait for each other, for seconds
(docs/experiments.md)."""


class GpSampler(BaseSampler):
    """Proposes points by a Gaussian process that also learns from earlier searches.

    It sets two attributes of a trial: `retry_of` (user) where a stopped trial is to be trained
    again, and `expected_gain` (system).

    Args:
        problem: what is searched.
        seed: seed of the random numbers; None: a new one in each process.
    """

    def __init__(
        self, problem: Problem, *, seed: int | None = None, rules: GpRules | None = None
    ) -> None:
        self.problem = problem
        with threadpool_limits(**ONE_THREAD):
            self.acquisition = Acquisition(problem, rules or GpRules())
        self.observer = Observer(problem)
        self.lock = threading.Lock()
        """Is held while a point is chosen, and while a trial is judged."""
        self._chosen: dict[int, dict[str, Any]] = {}
        """Parameters by trial's id, until Optuna has recorded them."""
        self._random = random.Random(seed)
        self._independent = RandomSampler(seed)

    def reseed_rng(self) -> None:
        """See `BaseSampler.reseed_rng`."""
        self._random.seed()
        self._independent.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The searched hyperparameters."""
        return distributions(self.problem.space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of the point to train next; none where every point has been tried.

        Raises:
            ValueError: the study does not minimize.
        """
        if study.direction != StudyDirection.MINIMIZE:
            raise ValueError("GpSampler minimizes a loss: the study's direction must be minimize")
        with self.lock:
            chosen = self._choose(study, trial)
            self._chosen[trial._trial_id] = chosen
        return chosen

    def _choose(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        others = [t for t in self._trials(study) if t.number != trial.number]
        seen = merge_observations(self.observer.observe(others))
        with threadpool_limits(**ONE_THREAD):
            suggestion = self.acquisition.propose(seen, self.candidates(seen))
        storage, trial_id = study._storage, trial._trial_id
        if suggestion.gain is not None and math.isfinite(suggestion.gain):
            storage.set_trial_system_attr(trial_id, EXPECTED_GAIN, suggestion.gain)
        point = suggestion.choice
        if isinstance(point, Observation):
            storage.set_trial_user_attr(trial_id, RETRY_OF, point.number)
            point = point.hyperparameters
        return encode(point, self.problem.space) if point is not None else {}

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """The study's trials. One whose parameters another thread has not asked for yet has those
        that were chosen for it."""
        found = study.get_trials(deepcopy=False)
        waiting = {
            t._trial_id for t in found if len(t.params) < len(self._chosen.get(t._trial_id, ()))
        }
        self._chosen = {number: self._chosen[number] for number in waiting}
        return [self._with_chosen(t) if t._trial_id in waiting else t for t in found]

    def _with_chosen(self, trial: FrozenTrial) -> FrozenTrial:
        known = copy.copy(trial)
        known.params = self._chosen[trial._trial_id]
        known.distributions = distributions(self.problem.space)
        return known

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A random value, for parameters that are not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def candidates(self, seen: Sequence[Observation]) -> Sequence[Hyperparameters]:
        """Points to choose from: the problem's own, or drawn from its space."""
        if self.problem.candidates is not None:
            return self.problem.candidates(seen)
        return candidates(self.problem.distinct_space, seen, self._random)

    def suggest(self, trial: optuna.Trial) -> Hyperparameters:
        """The hyperparameters of a trial, for use in an objective function."""
        for name, distribution in distributions(self.problem.space).items():
            if isinstance(distribution, optuna.distributions.CategoricalDistribution):
                trial.suggest_categorical(name, distribution.choices)
            elif isinstance(distribution, optuna.distributions.IntDistribution):
                trial.suggest_int(name, distribution.low, distribution.high)
            elif isinstance(distribution, optuna.distributions.FloatDistribution):
                low, high = distribution.low, distribution.high
                trial.suggest_float(name, low, high, log=distribution.log)
        return decode(trial.params, self.problem.space)


class GpPruner(BasePruner):
    """Stops a trial at a rung where another use of the time promises clearly more improvement.

    Args:
        sampler: the sampler of the same study.
    """

    def __init__(self, sampler: GpSampler) -> None:
        self._sampler = sampler

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """True if the trial stops at the rung that it reported last; never at its end."""
        problem = self._sampler.problem
        if trial.last_step is None or trial.last_step >= len(problem.rungs):
            return False
        with self._sampler.lock:
            return self._stops(study, trial)

    def _stops(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        trials = self._sampler.observer.observe(study.get_trials(deepcopy=False))
        current = next((one for one in trials if one.number == trial.number), None)
        if current is None:
            return False  # not all of the space's hyperparameters were suggested
        point, reached = current.hyperparameters, len(current.losses)
        earlier = [one for one in trials if one.hyperparameters == point and one is not current]
        if any(len(one.losses) >= reached for one in earlier):
            return False  # it was started again to get further than this
        seen = merge_observations(trials)
        with threadpool_limits(**ONE_THREAD):
            return not self._sampler.acquisition.should_continue(
                seen, trial.number, self._sampler.candidates(seen)
            )
