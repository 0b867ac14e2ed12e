"""The strategies that are compared, and how each one's trials run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from bench.search.replay import Replay, Rules
from vram_search.errors import InputError

PLAIN = Rules()
PRUNED = Rules(evaluate_at=None)
"""A pruner sees every evaluation of the table."""


@dataclass(frozen=True)
class Strategy:
    """A strategy by where its function is: heavy libraries are imported where it runs.

    Attributes:
        needs: modules of the extra `bench`.
        rules: None: those of our worker (`our_rules`).
    """

    module: str
    function: str
    rules: Rules | None = PLAIN
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]

    def run(self, replay: Replay) -> None:
        """Plays the night."""
        play: Callable[[Replay], None] = getattr(
            importlib.import_module(f"bench.search.{self.module}"), self.function
        )
        play(replay)


STRATEGIES: dict[str, Strategy] = {
    "random": Strategy("simple", "random_search"),
    "grid": Strategy("simple", "grid_search"),
    "tpe": Strategy("optuna_peers", "tpe"),
    "gp": Strategy("optuna_peers", "gp", needs=("scipy", "torch")),
    "tpe+median": Strategy("optuna_peers", "tpe_median", PRUNED),
    "tpe+hyperband": Strategy("optuna_peers", "tpe_hyperband", PRUNED),
    "asha": Strategy("syne_tune_peers", "asha", PRUNED, ("syne_tune",)),
    "botorch": Strategy("syne_tune_peers", "botorch", needs=("syne_tune", "botorch")),
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
