"""The search that `vram-search run` makes (`vram_search/worker/run.py`), on a replayed GPU.

What the package knows of the replayed task itself is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from unittest import mock

from optuna.storages import InMemoryStorage

from bench.search.replay import Replay, Trial
from bench.search.table import ALPHA_RATIO, Config
from vram_search.search import Proposal, Search
from vram_search.search.global_stopping import GlobalStopping
from vram_search.search.gp.strategy import Fits
from vram_search.search.gp.transfer import SourceTask, shipped, tasks
from vram_search.spec import Hyperparameters, Strategy
from vram_search.spec.initial_points import initial_points
from vram_search.spec.study import TrainingSpec
from vram_search.store import Outcome
from vram_search.worker.run import PRIORS_OF_GP

RUNGS = TrainingSpec().rungs


@dataclass(frozen=True)
class Rules:
    """The search's rules; their defaults are the product's."""

    strategy: Strategy = "gp"
    opening: int | None = PRIORS_OF_GP
    rungs: tuple[float, ...] = RUNGS
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
    _play(replay, Rules(opening=0))


def without_rungs(replay: Replay) -> None:
    """Every trial runs to its end; it is evaluated on its way all the same."""
    _play(replay, Rules(rungs=()))


def without_third_kept(replay: Replay) -> None:
    """At a rung the best trial alone goes on in any case."""
    with mock.patch("vram_search.search.gp.strategy.KEPT_SHARE", 1e-9):
        _play(replay, Rules())


def all_night(replay: Replay) -> None:
    """Goes on although nothing better is to be expected."""
    _play(replay, Rules(stops_early=False))


def with_tpe(replay: Replay) -> None:
    """`strategy: tpe`: all published configurations, Optuna's sampler and its pruner."""
    _play(replay, Rules(strategy="tpe", opening=None))


def _play(replay: Replay, rules: Rules) -> None:
    known = [one for one in shipped() if rules.knows_others and one.name != replay.table.task]
    nearest = [replay.nearest(point) for point in initial_points(replay.table.space, ALPHA_RATIO)]
    opening = list(dict.fromkeys(config.hyperparameters for config in nearest))[: rules.opening]
    # Optuna's storage in memory: writing SQLite takes most of a replay's time.
    with mock.patch("vram_search.search.study.RDBStorage", lambda *_, **__: InMemoryStorage()):
        search = Search(
            "sqlite://", "bench", 1, replay.table.space, ALPHA_RATIO, rules.rungs, replay.seed,
            strategy=rules.strategy, tasks=tasks(_elsewhere(known, replay), None), opening=opening,
        )  # fmt: skip
    for point in opening if rules.strategy != "gp" else ():
        search.enqueue(point)
    by_point = {config.hyperparameters: config for config in replay.table.configs}
    stopping = GlobalStopping()

    def fits(point: Hyperparameters) -> bool:
        return replay.excess(by_point[point]) <= 0

    while replay.clock < replay.night:
        left = _left(replay)
        complete = sum(trial.outcome == "complete" for trial in replay.trials)
        proposal = search.ask(fits, left)
        gain = proposal.gain if rules.stops_early else None
        if gain is not None and stopping.is_due(complete, gain):
            return
        if proposal.retry_of is None and not left:
            return
        config = by_point.get(proposal.hyperparameters)
        if config is None:
            config = replay.nearest(proposal.hyperparameters)
            search.drop(proposal.number)
            # Not `enqueue`, which compares with every trial so far: half of a replay's time.
            search.enqueue_retry(config.hyperparameters, proposal.number)
            proposal = search.ask()
        trial = _run(search, replay, proposal, config, fits)
        outcome: Outcome = trial.outcome
        value = trial.value if outcome == "complete" else None
        search.tell(proposal.number, outcome, value, replay.excess(config))


def _elsewhere(known: Sequence[SourceTask], replay: Replay) -> list[SourceTask]:
    """What is known of other points than the table's: two tasks may share configurations, which no
    user's searches do."""
    replayed = {config.hyperparameters for config in replay.table.configs}
    return [
        replace(one, trials=tuple(t for t in one.trials if t[0] not in replayed)) for one in known
    ]


def _left(replay: Replay) -> list[Hyperparameters]:
    return [config.hyperparameters for config in replay.remaining]


def _run(search: Search, replay: Replay, proposal: Proposal, config: Config, fits: Fits) -> Trial:
    def prunes(share: float, loss: float | None) -> bool:
        # The run's end is no rung: the worker asks only on the way.
        if share >= 1:
            return False
        return search.should_prune(proposal.number, share, loss, fits, _left(replay))

    return replay.run(config, prunes)
