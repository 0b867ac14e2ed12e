"""PriorBand of NePS (`neural-pipeline-search`), as it is by default.

Its prior is the first published configuration. ifBO of the same package is left out: its network's
weights are on figshare.com, which the machines of this project do not reach.
"""

from __future__ import annotations

import random
from typing import Any

import neps
import numpy as np
import torch
from neps.optimizers import algorithms
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from bench.search.peers.adapter import LARGEST_RESOURCE, Asked, FullRuns, play
from bench.search.replay import Replay
from vram_search.search.encoding import distributions, encode
from vram_search.spec import SearchSpace
from vram_search.spec.initial_points import initial_points

CONFIDENCE = "medium"
BUDGET = "ninths"


def priorband(replay: Replay) -> None:
    """Hyperband whose proposals come from the prior, from near the best one and at random."""
    random.seed(replay.seed)
    np.random.seed(replay.seed)
    torch.manual_seed(replay.seed)
    play(replay, _PriorBand(replay.table.space))


class _PriorBand(FullRuns):
    """Rungs at 1/9, 1/3 and the end; a promoted trial continues from its checkpoint."""

    def __init__(self, space: SearchSpace) -> None:
        prior = encode(initial_points(space)[0], space)
        parameters = {name: _parameter(one, prior[name]) for name, one in _searched(space)}
        parameters[BUDGET] = neps.HPOInteger(1, LARGEST_RESOURCE, is_fidelity=True)
        optimizer = algorithms.priorband(neps.SearchSpace(parameters), sample_prior_first=True)
        self._neps = neps.AskAndTell(optimizer)
        self._names: dict[str, str] = {}

    def ask(self) -> Asked:
        """Proposes a new configuration or a promotion."""
        self._trial: Any = self._neps.ask()
        params = dict(self._trial.config)
        earlier = self._trial.metadata.previous_trial_id
        return Asked(params, params.pop(BUDGET), self._names.get(earlier))

    def take(self, params: dict[str, Any], name: str) -> None:
        """Puts what is trained in the place of the proposal."""
        self._trial.config = params | {BUDGET: self._trial.config[BUDGET]}
        self._names[self._trial.id] = name

    def tell(self, loss: float, ninths: int) -> None:
        """Gives the loss at the budget."""
        self._neps.tell(self._trial, loss)


def _searched(space: SearchSpace) -> list[tuple[str, BaseDistribution]]:
    return list(distributions(space).items())


def _parameter(one: Any, prior: Any) -> Any:
    if isinstance(one, CategoricalDistribution):
        return neps.HPOCategorical(list(one.choices), prior=prior, prior_confidence=CONFIDENCE)
    if isinstance(one, FloatDistribution):
        return neps.HPOFloat(
            one.low, one.high, log=one.log, prior=prior, prior_confidence=CONFIDENCE
        )
    return neps.HPOInteger(one.low, one.high, prior=prior, prior_confidence=CONFIDENCE)
