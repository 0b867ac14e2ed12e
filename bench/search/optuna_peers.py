"""Optuna as its users run it: a fresh process a trial, memory not known."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from bench.search.replay import Replay
from vram_search.search.encoding import decode, distributions, encode

LARGEST_RESOURCE = 9
"""A run's end, in ninths."""


def tpe(replay: Replay) -> None:
    """TPESampler as it is by default, without pruning."""
    optimize(replay, TPESampler(seed=replay.seed), NopPruner())


def gp(replay: Replay) -> None:
    """GPSampler as it is by default, without pruning."""
    optimize(replay, GPSampler(seed=replay.seed), NopPruner(), penalty=True)


def tpe_median(replay: Replay) -> None:
    """TPE and MedianPruner, both as they are by default."""
    optimize(replay, TPESampler(seed=replay.seed), MedianPruner())


def tpe_hyperband(replay: Replay) -> None:
    """TPE and HyperbandPruner with rungs at 1/9, 1/3 and the end."""
    pruner = HyperbandPruner(min_resource=1, max_resource=LARGEST_RESOURCE, reduction_factor=3)
    optimize(replay, TPESampler(seed=replay.seed), pruner)


class TableSampler(BaseSampler):
    """Moves what a sampler proposes to the nearest configuration left, before Optuna sees it."""

    def __init__(self, sampler: BaseSampler, replay: Replay) -> None:
        self.sampler, self.replay = sampler, replay

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return distributions(self.replay.table.space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Parameters of an untried configuration."""
        inner = self.sampler
        found = inner.sample_relative(study, trial, inner.infer_relative_search_space(study, trial))
        for name, distribution in search_space.items():
            if name not in found:
                found[name] = inner.sample_independent(study, trial, name, distribution)
        space = self.replay.table.space
        config = self.replay.nearest(decode(found, space))
        return encode(config.hyperparameters, space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError("every parameter is sampled relatively")

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.sampler.after_trial(study, trial, state, values)


def optimize(
    replay: Replay, sampler: BaseSampler, pruner: BasePruner, *, penalty: bool = False
) -> None:
    """Asks, replays and tells until the night is over.

    Args:
        penalty: out of memory and divergence count as the worst loss so far: GPSampler reads
            complete trials only. Otherwise they are told as PRUNED, from which TPE learns.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=f"{replay.table.task} {replay.seed}",  # Hyperband's brackets depend on it
            sampler=TableSampler(sampler, replay),
            pruner=pruner,
        )
        space = replay.table.space
        while replay.is_open:
            trial = study.ask(distributions(space))
            config = replay.nearest(decode(trial.params, space))

            def prunes(share: float, loss: float | None, trial: optuna.Trial = trial) -> bool:
                trial.report(math.nan if loss is None else loss, round(share * LARGEST_RESOURCE))
                return share < 1 and trial.should_prune()

            ran = replay.run(config, prunes)
            if ran.outcome == "complete":
                study.tell(trial, ran.value)
                continue
            worst = max((t.value for t in replay.trials if t.value is not None), default=None)
            if penalty and worst is not None:
                study.tell(trial, worst)
            else:
                study.tell(trial, state=TrialState.PRUNED)
