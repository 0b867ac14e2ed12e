"""Syne Tune's schedulers, as they are by default. Needs the extra `bench`."""

from __future__ import annotations

import logging
import random
import sys
from contextlib import redirect_stdout
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, loguniform, randint
from syne_tune.optimizer.baselines import ASHA, ASHACQR, BOHB, CQR, BOTorch
from syne_tune.optimizer.scheduler import SchedulerDecision

from bench.search.elsewhere import elsewhere
from bench.search.peers.adapter import LARGEST_RESOURCE, Asked, FullRuns, play
from bench.search.replay import Replay
from vram_search.search.encoding import distributions, encode
from vram_search.spec import SearchSpace

BEGAN = datetime(2026, 1, 1)
METRIC, RESOURCE = "eval_loss", "ninths"
PER_TASK = 20
"""Best configurations of an earlier search that span the bounding box: Syne Tune's default is one,
a box without volume where there is one earlier search."""


def asha(replay: Replay) -> None:
    """ASHA (stopping) with random proposals."""
    _with_rungs(replay, ASHA)


def asha_cqr(replay: Replay) -> None:
    """ASHA whose proposals come from conformal quantile regression."""
    _with_rungs(replay, ASHACQR)


def bohb(replay: Replay) -> None:
    """ASHA whose proposals come from kernel density estimates.

    They begin with one point more than there are hyperparameters, as in the paper (arXiv
    1807.01774). By Syne Tune's default they begin after 47 trials, more than a night has.
    """
    fewest = len(distributions(replay.table.space)) + 1
    _with_rungs(replay, partial(BOHB, num_min_data_points=fewest))


def cqr(replay: Replay) -> None:
    """Conformal quantile regression on full runs."""
    _seed(replay.seed)
    space = _config_space(replay.table.space)
    play(replay, _FullRuns(CQR(space, metric=METRIC, random_seed=replay.seed)))


def botorch(replay: Replay) -> None:
    """BOTorch: a GP with expected improvement, on full runs."""
    _seed(replay.seed)
    space = _config_space(replay.table.space)
    play(replay, _FullRuns(BOTorch(space, metric=METRIC, random_seed=replay.seed)))


def bounding_box(replay: Replay) -> None:
    """BOTorch within the box of the best points of earlier searches."""
    from syne_tune.optimizer.schedulers.transfer_learning.bounding_box import BoundingBox

    def bo(space: dict[str, Any], metric: str, do_minimize: bool, seed: int) -> BOTorch:
        return BOTorch(space, metric=metric, do_minimize=do_minimize, random_seed=seed)

    _seed(replay.seed)
    with redirect_stdout(sys.stderr):  # it prints the box
        box = BoundingBox(
            bo,
            _config_space(replay.table.space),
            metric=METRIC,
            transfer_learning_evaluations=_evaluations(replay),
            num_hyperparameters_per_task=PER_TASK,
            random_seed=replay.seed,
        )
    play(replay, _FullRuns(box.scheduler))


def quantile_transfer(replay: Replay) -> None:
    """Copula Thompson sampling: draws from a model of the ranks in earlier searches."""
    from syne_tune.optimizer.schedulers.single_objective_scheduler import SingleObjectiveScheduler
    from syne_tune.optimizer.schedulers.transfer_learning.quantile_based import (
        quantile_based_searcher,
    )

    _seed(replay.seed)
    space = _config_space(replay.table.space)
    searcher = quantile_based_searcher.QuantileBasedSurrogateSearcher(
        space, _evaluations(replay), random_seed=replay.seed
    )
    scheduler = SingleObjectiveScheduler(
        space, metric=METRIC, searcher=searcher, random_seed=replay.seed
    )
    play(replay, _FullRuns(scheduler))


class _SyneTune:
    """Numbers the trials as the searchers do, and gives them what was trained."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.number = -1
        self.proposed: dict[str, Any] = {}
        self.trial: Any = None

    def ask(self) -> Asked:
        """Proposes a new configuration."""
        self.number += 1
        self.proposed = dict(self.scheduler.suggest().config)
        return Asked(self.proposed)

    def take(self, params: dict[str, Any], name: str) -> None:
        """Puts what is trained in the place of the proposal, as far as it is in the space."""
        space = self.scheduler.config_space
        params = {
            name: value if space[name].is_valid(value) else self.proposed[name]
            for name, value in params.items()
        }
        self.trial = Trial(self.number, params, BEGAN)
        kept = getattr(self.scheduler.searcher, "trial_configs", None)
        if kept is not None and self.number in kept:
            kept[self.number] = params
        self.scheduler.on_trial_add(self.trial)


class _FullRuns(_SyneTune, FullRuns):
    def tell(self, loss: float, ninths: int) -> None:
        """Gives the searcher the best loss."""
        self.scheduler.on_trial_complete(self.trial, {METRIC: loss})


class _WithRungs(_SyneTune):
    def report(self, ninths: int, loss: float) -> bool:
        """Asks ASHA."""
        decision = self.scheduler.on_trial_result(self.trial, {METRIC: loss, RESOURCE: ninths})
        return bool(decision == SchedulerDecision.STOP)

    def tell(self, loss: float, ninths: int) -> None:
        """Reports the end; a trial that ASHA stopped was reported."""
        if ninths == LARGEST_RESOURCE:
            self.scheduler.on_trial_result(self.trial, {METRIC: loss, RESOURCE: ninths})


def _with_rungs(replay: Replay, scheduler: Any) -> None:
    _seed(replay.seed)
    space = _config_space(replay.table.space)
    made = scheduler(
        space,
        metric=METRIC,
        time_attr=RESOURCE,
        max_t=LARGEST_RESOURCE,
        random_seed=replay.seed,
    )
    play(replay, _WithRungs(made))


def _seed(seed: int) -> None:
    """Syne Tune draws from the global generators too."""
    random.seed(seed)
    np.random.seed(seed)
    logging.getLogger("syne_tune").setLevel(logging.ERROR)


def _config_space(space: SearchSpace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, one in distributions(space).items():
        if isinstance(one, FloatDistribution):
            found[name] = loguniform(one.low, one.high)
        elif isinstance(one, IntDistribution):
            found[name] = randint(one.low, one.high)
        elif isinstance(one, CategoricalDistribution):
            found[name] = choice(list(one.choices))
    return found


def _evaluations(replay: Replay) -> dict[str, Any]:
    """What is known of other searches, in Syne Tune's form."""
    from syne_tune.optimizer.schedulers.transfer_learning import (
        transfer_learning_task_evaluation as transfer,
    )

    space = replay.table.space
    found = {}
    for task in elsewhere(replay):
        known = [(point, loss) for point, loss in task.trials if space.contains(point)]
        found[task.name] = transfer.TransferLearningTaskEvaluations(
            configuration_space=_config_space(space),
            hyperparameters=pd.DataFrame([encode(point, space) for point, _ in known]),
            objectives_names=[METRIC],
            objectives_evaluations=np.array([[[[loss]]] for _, loss in known]),
        )
    return found
