"""Syne Tune's schedulers, a fresh process a trial, memory not known. Needs the extra `bench`."""

from __future__ import annotations

import logging
import random
from datetime import datetime
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice, loguniform, ordinal
from syne_tune.optimizer.baselines import ASHA, BOTorch
from syne_tune.optimizer.scheduler import SchedulerDecision

from bench.search.replay import Replay
from bench.search.table import Config
from vram_search.spec import SearchSpace
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.space_parts import NumberRange

LARGEST_RESOURCE = 9
"""A run's end, in ninths."""
BEGAN = datetime(2026, 1, 1)


def asha(replay: Replay) -> None:
    """ASHA (stopping) with rungs at 1/9, 1/3 and the end, as it is by default."""
    _seed(replay.seed)
    space = _config_space(replay.table.space)
    scheduler = ASHA(
        space,
        metric="eval_loss",
        time_attr="ninths",
        max_t=LARGEST_RESOURCE,
        random_seed=replay.seed,
    )
    number = 0
    while replay.is_open:
        config = replay.nearest(replay.table.space.point(scheduler.suggest().config))
        trial = Trial(number, _values(config, space), BEGAN)
        scheduler.on_trial_add(trial)

        def stops(share: float, loss: float | None, trial: Trial = trial) -> bool:
            if loss is None:
                return True
            ninths = max(1, round(share * LARGEST_RESOURCE))
            decision = scheduler.on_trial_result(trial, {"eval_loss": loss, "ninths": ninths})
            return share < 1 and bool(decision == SchedulerDecision.STOP)

        replay.run(config, stops)
        number += 1


def botorch(replay: Replay) -> None:
    """BOTorch: a GP with expected improvement, as it is by default.

    Out of memory and divergence are told as the worst loss so far.
    """
    _seed(replay.seed)
    space = _config_space(replay.table.space)
    scheduler = BOTorch(space, metric="eval_loss", random_seed=replay.seed)
    # Its searcher keeps the proposals by number; the nearest configuration takes their place.
    proposals: dict[int, dict[str, Any]] = scheduler.searcher.trial_configs
    while replay.is_open:
        config = replay.nearest(replay.table.space.point(scheduler.suggest().config))
        number = len(proposals) - 1
        trial = Trial(number, _values(config, space), BEGAN)
        proposals[number] = trial.config
        scheduler.on_trial_add(trial)
        loss = replay.run(config).value
        worst = max((t.value for t in replay.trials if t.value is not None), default=None)
        if loss is not None or worst is not None:
            told = worst if loss is None else loss
            scheduler.on_trial_complete(trial, {"eval_loss": told})


def _seed(seed: int) -> None:
    """Syne Tune draws from the global generators too."""
    random.seed(seed)
    np.random.seed(seed)
    logging.getLogger("syne_tune").setLevel(logging.ERROR)


def _config_space(space: SearchSpace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dimension in filter(space.is_searched, DIMENSIONS):
        options = space.options(dimension)
        if isinstance(options, NumberRange):
            found[dimension.name] = loguniform(options.min, options.max)
        elif dimension.kind == "categorical":
            found[dimension.name] = choice(list(options))
        else:
            found[dimension.name] = ordinal(list(options), kind="equal")
    return found


def _values(config: Config, space: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(config.hyperparameters, name) for name in space}
