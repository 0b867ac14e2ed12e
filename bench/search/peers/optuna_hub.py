"""Samplers of OptunaHub, from a checkout of github.com/optuna/optunahub-registry.

`python -m bench.search --optunahub FOLDER` names the checkout: its code is not part of this
project and is loaded only from there.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import optuna
from optuna.samplers._tpe.sampler import default_gamma

from bench.search.elsewhere import elsewhere
from bench.search.optuna_peers import optimize
from bench.search.replay import Replay
from bench.search.strategies import HUB_VARIABLE
from vram_search.search.encoding import distributions, encode

FEWEST_RANDOM = 1


def auto_sampler(replay: Replay) -> None:
    """AutoSampler: here multivariate TPE, because there are categories."""
    module = _package("auto_sampler")
    optimize(replay, module.AutoSampler(seed=replay.seed), optuna.pruners.NopPruner())


def meta_learn_tpe(replay: Replay) -> None:
    """TPE that weighs the trials of earlier searches by their likeness; it is transfer-aware.

    Its default of ten random trials first is half a night, so it has one.
    """
    module = _package("meta_learn_tpe")
    sampler = module.MetaLearnTPESampler(
        source_studies=_studies(replay), n_startup_trials=FEWEST_RANDOM, seed=replay.seed
    )
    # Written for Optuna 4, whose samplers held their default here; those of Optuna 5 hold None.
    for one in (sampler._target_sampler, *sampler._source_samplers):
        one._gamma = default_gamma
    optimize(replay, sampler, optuna.pruners.NopPruner())


def _studies(replay: Replay) -> list[optuna.Study]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = replay.table.space
    found = []
    for task in elsewhere(replay):
        study = optuna.create_study(study_name=task.name)
        for point, loss in task.trials:
            if space.contains(point):
                study.add_trial(
                    optuna.trial.create_trial(
                        params=encode(point, space), distributions=distributions(space), value=loss
                    )
                )
        found.append(study)
    return found


def _package(name: str) -> ModuleType:
    folder = Path(os.environ[HUB_VARIABLE]) / "package" / "samplers" / name
    key = f"optunahub_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            key, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    return sys.modules[key]
