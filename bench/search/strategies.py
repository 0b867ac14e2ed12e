"""The strategies that are compared, and how each one's trials run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.search.replay import Replay, Rules
from vram_search.errors import InputError

PLAIN = Rules()
PRUNED = Rules(evaluate_at=None)
"""A pruner sees every evaluation of the table."""
BRACKETS = Rules(evaluate_at=(1 / 9, 1 / 3))
"""Trials are evaluated where a bracket may promote them, and at their end."""
HUB_VARIABLE = "BENCH_OPTUNAHUB"
"""Names the checkout of optunahub-registry; nights run in processes of their own."""


SYNE_TUNE = ("syne_tune", "pandas")


@dataclass(frozen=True)
class Strategy:
    """A strategy by where its function is: heavy libraries are imported where it runs.

    Attributes:
        needs: modules that have to be installed.
        rules: None: those of our worker (`our_rules`).
        hub: its folder in a checkout of optunahub-registry.
    """

    module: str
    function: str
    rules: Rules | None = PLAIN
    needs: tuple[str, ...] = ()
    hub: str = ""

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed, and a missing checkout of OptunaHub."""
        missing = [name for name in self.needs if find_spec(name) is None]
        folder = os.environ.get(HUB_VARIABLE)
        if self.hub and not (folder and (Path(folder) / self.hub).is_dir()):
            missing.append(f"--optunahub with {self.hub}")
        return missing

    def run(self, replay: Replay) -> None:
        """Plays the night."""
        play: Callable[[Replay], None] = getattr(
            importlib.import_module(f"bench.search.{self.module}"), self.function
        )
        play(replay)


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy("simple", "random_search"),
    "grid": Strategy("simple", "grid_search"),
    "published": Strategy("simple", "published"),
    "tpe": Strategy("optuna_peers", "tpe"),
    "gp": Strategy("optuna_peers", "gp", needs=("scipy", "torch", "greenlet")),
    "tpe+median": Strategy("optuna_peers", "tpe_median", PRUNED),
    "tpe+hyperband": Strategy("optuna_peers", "tpe_hyperband", PRUNED),
    "auto": Strategy(
        "peers.optuna_hub",
        "auto_sampler",
        needs=("cmaes", "scipy", "torch"),
        hub="package/samplers/auto_sampler",
    ),
    "meta tpe": Strategy(
        "peers.optuna_hub", "meta_learn_tpe", hub="package/samplers/meta_learn_tpe"
    ),
    "asha": Strategy("peers.syne_tune", "asha", PRUNED, SYNE_TUNE),
    "asha-cqr": Strategy("peers.syne_tune", "asha_cqr", PRUNED, SYNE_TUNE),
    "bohb": Strategy("peers.syne_tune", "bohb", PRUNED, SYNE_TUNE),
    "cqr": Strategy("peers.syne_tune", "cqr", needs=SYNE_TUNE),
    "botorch": Strategy("peers.syne_tune", "botorch", needs=(*SYNE_TUNE, "botorch")),
    "box": Strategy("peers.syne_tune", "bounding_box", needs=(*SYNE_TUNE, "botorch")),
    "copula": Strategy("peers.syne_tune", "quantile_transfer", needs=(*SYNE_TUNE, "xgboost")),
    "smac": Strategy("peers.smac", "multi_fidelity", BRACKETS, ("smac",)),
    "hebo": Strategy("peers.hebo", "hebo", needs=("hebo", "pymoo")),
    "priorband": Strategy("peers.neps", "priorband", BRACKETS, ("neps",)),
    "ours": Strategy("ours", "our_search", None),
}
LEVERS: dict[str, Strategy] = {
    "no transfer": Strategy("ours", "without_transfer", None),
    "no priors": Strategy("ours", "without_priors", None),
    "no rungs": Strategy("ours", "without_rungs", None),
    "no third kept": Strategy("ours", "without_third_kept", None),
    "all night": Strategy("ours", "all_night", None),
    "our tpe": Strategy("ours", "with_tpe", None),
}
"""Ours with one rule changed; compared only where they are named."""
OURS, TPE, RANDOM = "ours", "tpe", "random"
TRANSFER = ("meta tpe", "box", "copula")
"""Peers that get the same earlier runs as ours."""


def our_rules() -> Rules:
    """One process, memory known, evaluations at the study's default rungs."""
    from vram_search.spec.study import TrainingSpec

    return Rules(is_resident=True, knows_memory=True, evaluate_at=TrainingSpec().rungs)


def chosen(names: list[str] | None) -> dict[str, Strategy]:
    """Strategies by name; all but the levers where None.

    Raises:
        InputError: a name is unknown.
    """
    known = STRATEGIES | LEVERS
    for name in names or ():
        if name not in known:
            raise InputError(f"no strategy {name!r}", f"there are: {', '.join(known)}")
    return {name: known[name] for name in names or STRATEGIES}
