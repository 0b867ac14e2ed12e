"""The search that `vram-search run` makes (`vram_search/worker/run.py`), on a replayed GPU."""

from __future__ import annotations

from unittest import mock

from optuna.storages import InMemoryStorage

from bench.search.replay import Replay, Trial
from bench.search.table import ALPHA_RATIO, Config
from vram_search.search import Proposal, Search, priors
from vram_search.spec.study import TrainingSpec
from vram_search.store import Outcome

RUNGS = TrainingSpec().rungs


def our_search(replay: Replay) -> None:
    """Priors, then what the sampler proposes, each moved to the nearest configuration left."""
    search = _open(replay)
    _enqueue_priors(search, replay)
    while replay.is_open:
        proposal = search.ask()
        config = replay.nearest(proposal.hyperparameters)
        if config.hyperparameters != proposal.hyperparameters:
            search.drop(proposal.number)
            # Not `enqueue`, which compares with every trial so far: half of a replay's time.
            search.enqueue_retry(config.hyperparameters, proposal.number)
            proposal = search.ask()
        trial = _run(search, replay, proposal, config)
        outcome: Outcome = trial.outcome
        value = trial.value if outcome == "complete" else None
        search.tell(proposal.number, outcome, value, replay.excess(config))


def _open(replay: Replay) -> Search:
    """The search on Optuna's storage in memory: writing SQLite takes most of a replay's time."""
    with mock.patch("vram_search.search.search.RDBStorage", lambda *_, **__: InMemoryStorage()):
        return Search(
            "sqlite://", "bench", 1, replay.table.space, ALPHA_RATIO, RUNGS, seed=replay.seed
        )


def _enqueue_priors(search: Search, replay: Replay) -> None:
    found: list[Config] = []
    for point in priors(replay.table.space, ALPHA_RATIO):
        config = replay.nearest(point)
        if config not in found:
            found.append(config)
            search.enqueue(config.hyperparameters)


def _run(search: Search, replay: Replay, proposal: Proposal, config: Config) -> Trial:
    def prunes(share: float, loss: float | None) -> bool:
        # The run's end is no rung: the worker asks only on the way.
        return share < 1 and search.should_prune(proposal.number, share, loss)

    return replay.run(config, prunes)
