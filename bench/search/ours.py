"""The search that `vram-search run` makes, with its own loop and strategies, on a replayed GPU.

What the package knows of the replayed task itself is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage

from bench.search.elsewhere import elsewhere
from bench.search.optuna_peers import TableSampler
from bench.search.replay import Replay
from bench.search.table import Config
from vram_search.search import Problem, Proposal, Search, Strategy
from vram_search.search.gp.rules import GpRules
from vram_search.search.gp.strategy import GpStrategy
from vram_search.search.loop import run_trials
from vram_search.search.observations import Observation
from vram_search.search.optuna_strategies import TpeStrategy
from vram_search.spec import Hyperparameters
from vram_search.spec.initial_points import initial_points
from vram_search.spec.study import TrainingSpec
from vram_search.store import Outcome


@dataclass(frozen=True)
class Rules:
    """The search's rules; their defaults are the product's."""

    strategy: Strategy = field(default_factory=GpStrategy)
    rungs: tuple[float, ...] = TrainingSpec().rungs
    knows_others: bool = True
    stops_early: bool = True


def our_search(replay: Replay) -> None:
    """The product as it is."""
    _play(replay, Rules())


def without_transfer(replay: Replay) -> None:
    """Nothing is known of other searches."""
    _play(replay, Rules(knows_others=False))


def without_priors(replay: Replay) -> None:
    """No published configurations."""
    _play(replay, Rules(GpStrategy(GpRules(published_first=0))))


def without_rungs(replay: Replay) -> None:
    """Every trial runs to its end; it is evaluated on its way all the same."""
    _play(replay, Rules(rungs=()))


def without_third_kept(replay: Replay) -> None:
    """At a rung only the best trial always continues."""
    _play(replay, Rules(GpStrategy(GpRules(kept_share=1e-9))))


def all_night(replay: Replay) -> None:
    """Runs on although no further improvement is expected."""
    _play(replay, Rules(stops_early=False))


@dataclass(frozen=True)
class _OnTable(TpeStrategy):
    """`tpe`, whose proposals are moved to the nearest configuration left of the table."""

    replay: Replay = field(kw_only=True)

    def open(self, problem: Problem, seed: int) -> tuple[BaseSampler, BasePruner]:
        sampler, pruner = super().open(problem, seed)
        return TableSampler(sampler, self.replay), pruner


def with_tpe(replay: Replay) -> None:
    """`strategy: tpe`: all published configurations, Optuna's sampler and its pruner."""
    _play(replay, Rules(_OnTable(replay=replay)))


def _play(replay: Replay, rules: Rules) -> None:
    nearest = [replay.nearest(point) for point in initial_points(replay.table.space)]
    published = list(dict.fromkeys(config.hyperparameters for config in nearest))
    runner = _ReplayedTrials(replay)
    problem = Problem(
        replay.table.space,
        rules.rungs,
        initial_points=rules.strategy.initial_points(published, None),
        source_tasks=elsewhere(replay) if rules.knows_others else [],
        is_feasible=runner.is_feasible,
        candidates=runner.candidates,
    )
    # Optuna's storage in memory: writing SQLite takes most of a replay's time.
    search = Search(InMemoryStorage(), "bench", 1, problem, rules.strategy, replay.seed)
    search.enqueue_initial_points()
    run_trials(
        search,
        lambda proposal: runner.run(search, proposal),
        runner.is_over,
        stop_early=rules.stops_early,
    )


class _ReplayedTrials:
    """Runs proposals on the table; the counterpart of the worker's `TrialRunner`."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._by_point: dict[Hyperparameters, Config] = {
            config.hyperparameters: config for config in replay.table.configs
        }

    def is_feasible(self, point: Hyperparameters) -> bool:
        return self._replay.excess(self._by_point[point]) <= 0

    def candidates(self, seen: Sequence[Observation]) -> list[Hyperparameters]:
        return [config.hyperparameters for config in self._replay.remaining]

    def is_over(self) -> str:
        return "" if self._replay.is_open else "time or table are used up"

    def run(self, search: Search, proposal: Proposal) -> Outcome:
        """Trains the configuration of a proposal."""
        config = self._by_point[proposal.hyperparameters]

        def prunes(share: float, loss: float | None) -> bool:
            # The end of a run is no rung: the worker asks only on the way.
            return share < 1 and search.should_prune(proposal.number, share, loss)

        trial = self._replay.run(config, prunes)
        value = trial.value if trial.outcome == "complete" else None
        search.tell(proposal.number, trial.outcome, value, self._replay.excess(config))
        return trial.outcome
