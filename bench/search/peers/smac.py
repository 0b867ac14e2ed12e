"""SMAC3's multi-fidelity facade, as it is by default: Hyperband on a random forest.

SMAC follows its own configurations through the rungs, so what it proposes has to be in the table:
its acquisition function ranks the configurations that are left, as that of ours does. Its random
proposals (a fifth) are configurations of the table, too.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from ConfigSpace import Categorical, Configuration, ConfigurationSpace, Float, Integer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from smac import MultiFidelityFacade, Scenario
from smac.acquisition.maximizer.abstract_acquisition_maximizer import AbstractAcquisitionMaximizer
from smac.runhistory.dataclasses import TrialValue

from bench.search.peers.adapter import LARGEST_RESOURCE, Asked, FullRuns, play
from bench.search.replay import NIGHT_TRIALS, Replay
from vram_search.search.encoding import distributions, encode

TRIALS = 1000
"""More than a night holds."""
RANDOM_FIRST = NIGHT_TRIALS // 4
"""By default SMAC starts with ten random configurations for each hyperparameter, but at most with a
quarter of the trials that it may make."""


def multi_fidelity(replay: Replay) -> None:
    """Rungs at 1/9, 1/3 and the end; a promoted trial continues from its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        play(replay, _MultiFidelity(replay, folder))


class _MultiFidelity(FullRuns):
    def __init__(self, replay: Replay, folder: str) -> None:
        space = ConfigurationSpace(seed=replay.seed)
        for name, one in distributions(replay.table.space).items():
            space.add(_parameter(name, one))
        scenario = Scenario(
            space,
            n_trials=TRIALS,
            min_budget=1,
            max_budget=LARGEST_RESOURCE,
            deterministic=True,
            seed=replay.seed,
            output_directory=folder,
        )
        left = _Left(replay, space)
        self._smac = MultiFidelityFacade(
            scenario,
            _never,
            acquisition_maximizer=_OfTheTable(left, replay.seed),
            initial_design=MultiFidelityFacade.get_initial_design(
                scenario,
                n_configs=0,
                additional_configs=left.shuffled(replay.seed)[:RANDOM_FIRST],
            ),
            logging_level=False,
            overwrite=True,
        )
        self._names: dict[Configuration, str] = {}

    def ask(self) -> Asked:
        """Proposes a new configuration or a promotion."""
        self._info: Any = self._smac.ask()
        known = self._names.get(self._info.config)
        return Asked(dict(self._info.config), round(self._info.budget), known)

    def take(self, params: dict[str, Any], name: str) -> None:
        """Remembers the configuration by its name."""
        self._names[self._info.config] = name

    def tell(self, loss: float, ninths: int) -> None:
        """Gives the loss at the budget."""
        self._smac.tell(self._info, TrialValue(cost=loss), save=False)


class _Left:
    """The configurations of the table that were not trained, as SMAC's."""

    def __init__(self, replay: Replay, space: ConfigurationSpace) -> None:
        self._replay = replay
        self._made = {
            config.name: Configuration(
                space, values=encode(config.hyperparameters, replay.table.space)
            )
            for config in replay.table.configs
        }

    def now(self) -> list[Configuration]:
        """Those that are left."""
        return [self._made[config.name] for config in self._replay.remaining]

    def shuffled(self, seed: int) -> list[Configuration]:
        """All, in random order."""
        left = self.now()
        return [left[place] for place in np.random.RandomState(seed).permutation(len(left))]


class _OfTheTable(AbstractAcquisitionMaximizer):  # type: ignore[misc]
    """Ranks what is left of the table."""

    def __init__(self, left: _Left, seed: int) -> None:
        super().__init__(None, seed=seed)
        self._left = left

    def maximize(
        self, previous_configs: Any, n_points: int | None = None, random_design: Any = None
    ) -> Any:
        """Yields configurations by expected improvement; the random design makes some random."""
        ranked = [one for _, one in self._maximize(previous_configs, n_points or 0)]
        for place, config in enumerate(ranked):
            is_random = random_design is not None and random_design.check(place)
            yield ranked[self._rng.randint(len(ranked))] if is_random else config
        if random_design is not None:
            random_design.next_iteration()

    def _maximize(self, previous_configs: Any, n_points: int) -> Any:
        return self._sort_by_acquisition_value(self._left.now())


def _parameter(name: str, one: BaseDistribution) -> Any:
    if isinstance(one, CategoricalDistribution):
        return Categorical(name, list(one.choices))
    if isinstance(one, FloatDistribution):
        return Float(name, (one.low, one.high), log=one.log)
    return Integer(name, (one.low, one.high))  # type: ignore[attr-defined]


def _never(config: Configuration, seed: int, budget: float) -> float:
    raise AssertionError("the replay trains")
