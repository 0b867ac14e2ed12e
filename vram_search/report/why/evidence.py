"""The evidence for `why`: a trial and the records that explain it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vram_search.search.strategies import STRATEGIES
from vram_search.search.strategy import Strategy
from vram_search.store import Evaluation, StepLoss, StudyRecord, TrialRecord

Facts = tuple[list[str], dict[str, Any]]
"""Sentences, and the figures in them by name."""


@dataclass(frozen=True)
class Evidence:
    """The records of a trial and of the trials it is compared with.

    Attributes:
        trials: all trials of the study, including this one.
        evaluations: by trial number; a trial without any may be left out.
        step_losses: losses of each step of this trial.
    """

    study: StudyRecord
    trial: TrialRecord
    trials: Sequence[TrialRecord]
    evaluations: Mapping[int, Sequence[Evaluation]] = field(default_factory=dict)
    step_losses: Sequence[StepLoss] = ()

    @property
    def strategy(self) -> Strategy | None:
        """The strategy that decided at the trial's rungs; None for imported runs."""
        if self.study.is_imported:
            return None
        return STRATEGIES[self.study.strategy_of(self.trial.number)]

    @property
    def repeated(self) -> TrialRecord | None:
        """The trial that this one repeats."""
        return next((one for one in self.trials if one.number == self.trial.retry_of), None)

    @property
    def repeats(self) -> list[TrialRecord]:
        """Trials that repeat this one."""
        return [one for one in self.trials if one.retry_of == self.trial.number]
