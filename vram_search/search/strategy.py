"""The interface of a strategy: a sampler and a pruner in Optuna's sense, with their rules.

This module and the classes that implement `Strategy` load neither Optuna nor numpy when they are
imported: `vram-search why` asks them for explanations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vram_search.search.global_stopping import GlobalStopping
from vram_search.store import TrialRecord

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from vram_search.search.problem import Problem
    from vram_search.spec import Hyperparameters

RETRY_OF = "retry_of"
"""User attribute: number of the trial that this one repeats."""
EXPECTED_GAIN = "expected_gain"
"""System attribute that a sampler may set: share by which one more run is expected to lower the
best eval_loss."""


@dataclass(frozen=True)
class StoppedTrial:
    """A trial that was stopped at a rung, with what it was compared with.

    Attributes:
        rung: share of the run.
        loss: eval_loss at the rung.
        lowest_loss: lowest eval_loss up to the rung.
        others: trials of the study that had ended by then, with their eval_loss at the rung.
    """

    trial: TrialRecord
    rung: float
    loss: float
    lowest_loss: float
    others: Sequence[tuple[TrialRecord, float]]


Explanation = tuple[list[str], dict[str, Any]]
"""Sentences, and the figures in them by name."""


class Strategy(Protocol):
    """How a search chooses its points, stops its trials and ends."""

    @property
    def name(self) -> str:
        """The value of the study's key `strategy`."""
        ...

    @property
    def infeasible_in_a_row(self) -> int:
        """Proposals in a row that may turn out not to fit the card before the search gives up."""
        ...

    @property
    def initial_points_summary(self) -> str:
        """Describes the first trials where published points are among them."""
        ...

    @property
    def pruned_summary(self) -> str:
        """Says in a few words why a trial was pruned."""
        ...

    def initial_points(
        self, published: Sequence[Hyperparameters], trials: int | None
    ) -> Sequence[Hyperparameters]:
        """The published points to begin with.

        Args:
            trials: budget of the search; None: no limit.
        """
        ...

    def enqueued_points(self, problem: Problem) -> Sequence[Hyperparameters]:
        """Initial points to enqueue in Optuna; empty where the sampler proposes them itself."""
        ...

    def open(self, problem: Problem, seed: int) -> tuple[BaseSampler, BasePruner]:
        """A sampler and a pruner for one Optuna study, whose direction is to minimize."""
        ...

    def global_stopping(self) -> GlobalStopping | None:
        """A rule that ends the search early; None: it runs until its budget is used up."""
        ...

    def explain_pruned(self, stopped: StoppedTrial) -> Explanation:
        """Explains from the record why the pruner stopped a trial."""
        ...
