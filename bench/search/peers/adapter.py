"""What every strategy of another library is to the replay: ask, report at each evaluation, tell.

A peer sees the space as Optuna does (`vram_search.search.encoding`): a learning rate on a
logarithmic scale, places in the lists of ranks, lengths and batch sizes, and names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bench.search.replay import Replay, Trial
from bench.search.table import Config
from vram_search.search.encoding import decode, encode

LARGEST_RESOURCE = 9
"""A run's end, in ninths: brackets of factor 3 have their rungs at 1/9, 1/3 and the end."""


@dataclass(frozen=True)
class Asked:
    """What a peer wants trained.

    Attributes:
        params: encoded hyperparameters.
        ninths: budget; the trial ends there.
        resumes: name of the configuration that continues from its checkpoint; None: a new one.
    """

    params: dict[str, Any]
    ninths: int = LARGEST_RESOURCE
    resumes: str | None = None


class Peer(Protocol):
    """A strategy of another library."""

    def ask(self) -> Asked:
        """Proposes the next trial."""
        ...

    def take(self, params: dict[str, Any], name: str) -> None:
        """Learns which configuration is trained in place of what it asked for.

        Args:
            params: encoded hyperparameters of the nearest configuration left.
            name: of the configuration, for `Asked.resumes`.
        """
        ...

    def report(self, ninths: int, loss: float) -> bool:
        """Takes an evaluation on the way; true ends the trial."""
        ...

    def tell(self, loss: float, ninths: int) -> None:
        """Takes the result: the best loss so far, and how far the run was trained."""
        ...


class FullRuns:
    """Base of peers that train every trial to its end."""

    def report(self, ninths: int, loss: float) -> bool:
        """Never ends a trial."""
        return False


def play(replay: Replay, peer: Peer) -> None:
    """Asks, trains and tells until the night is over.

    A trial that ran out of memory, did not fit or diverged counts as the untrained model's loss.
    """
    trainer = _Trainer(replay, peer)
    while replay.is_open:
        trainer.train(peer.ask())


@dataclass
class _Trainer:
    replay: Replay
    peer: Peer

    def __post_init__(self) -> None:
        self._by_name = {config.name: config for config in self.replay.table.configs}
        self._trained: dict[str, int] = {}

    def train(self, asked: Asked) -> None:
        """Trains what was asked for as far as it was asked for, and tells its result."""
        space = self.replay.table.space
        if asked.resumes is None:
            config = self.replay.nearest(decode(asked.params, space))
        else:
            config = self._by_name[asked.resumes]
        self.peer.take(encode(config.hyperparameters, space), config.name)
        begins = self._trained.get(config.name, 0)
        trial = self.replay.run(config, self._ends(asked.ninths), resumed_at=begins / 9)
        reached = asked.ninths if trial.outcome == "complete" else self._reached
        self._trained[config.name] = reached
        self.peer.tell(_loss(trial, config), reached)

    def _ends(self, budget: int) -> Callable[[float, float | None], bool]:
        self._reached = budget

        def ends(share: float, loss: float | None) -> bool:
            ninths = max(1, round(share * LARGEST_RESOURCE))
            if loss is None:
                return True
            stops = ninths < LARGEST_RESOURCE and self.peer.report(ninths, loss)
            if stops:
                self._reached = ninths
            return stops or ninths >= budget

        return ends


def _loss(trial: Trial, config: Config) -> float:
    untrained = config.rows[0].eval_loss[0]
    assert untrained is not None
    if trial.value is None or trial.outcome in ("oom", "infeasible", "diverged"):
        return untrained
    return trial.value
