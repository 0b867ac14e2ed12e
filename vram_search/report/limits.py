"""Limits that a trial must keep to be asked for: bytes, a card, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vram_search.report.figures import needed_bytes, required_bytes, run_seconds
from vram_search.search.study_constraints import keeping_constraints, set_limits
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.units import format_bytes, format_duration


def constraint_sentence(store: Store, study: StudyRecord) -> str:
    """Says how many complete trials are not ranked because they break a constraint; empty if none
    does."""
    if not set_limits(study):
        return ""
    complete = store.top_trials(study.id)
    broken = len(complete) - len(keeping_constraints(study, complete))
    if not broken:
        return ""
    return f"Complete trials that break the study's constraints and are not ranked: {broken}."


@dataclass(frozen=True)
class Limits:
    """None sets no limit.

    Attributes:
        required_bytes: most that a trial may require.
        card: title of a card that the trial must fit.
        budget_bytes: what that card leaves to the allocator.
        seconds: from a trial's start to its record, on the device where it ran.
    """

    required_bytes: int | None = None
    card: str | None = None
    budget_bytes: int | None = None
    seconds: float | None = None

    def admits(self, trial: TrialRecord) -> bool:
        """True if the trial, under the plan that it ran with, keeps all limits; a trial whose
        figure is unknown does not."""
        size, spent = required_bytes(trial)[0], run_seconds(trial)
        needed = needed_bytes(trial)
        return (
            (self.required_bytes is None or (size is not None and size <= self.required_bytes))
            and (self.budget_bytes is None or (needed is not None and needed <= self.budget_bytes))
            and (self.seconds is None or (spent is not None and spent <= self.seconds))
        )

    @property
    def words(self) -> str:
        """A phrase that begins with "within"; empty without a limit."""
        words = []
        if self.required_bytes is not None:
            words.append(format_bytes(self.required_bytes))
        if self.budget_bytes is not None:
            words.append(f"the {format_bytes(self.budget_bytes)} of {self.card}")
        if self.seconds is not None:
            words.append(format_duration(self.seconds))
        return f"within {' and '.join(words)}" if words else ""

    def least_words(self, trials: Sequence[TrialRecord]) -> str:
        """The least that complete trials need of each limited quantity; empty if unknown."""
        words = []
        sized = [(size, t.number) for t in trials if (size := self._size(t)) is not None]
        if sized and (self.required_bytes is not None or self.budget_bytes is not None):
            words.append(f"{format_bytes(min(sized)[0])} (trial {min(sized)[1]})")
        timed = [(spent, t.number) for t in trials if (spent := run_seconds(t)) is not None]
        if timed and self.seconds is not None:
            words.append(f"{format_duration(min(timed)[0])} (trial {min(timed)[1]})")
        return " and ".join(words)

    def _size(self, trial: TrialRecord) -> float | None:
        """The bytes that a limit is compared with: a card's counts the margin of a prediction."""
        return required_bytes(trial)[0] if self.budget_bytes is None else needed_bytes(trial)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
