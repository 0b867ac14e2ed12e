"""The interface by which the live table, plain output or a test receives a run's events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vram_search.estimate import PlannedTrial
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent
from vram_search.search import Proposal
from vram_search.store import TrialRecord


class RunListener(Protocol):
    """Receives the events of a run in order; the run's own thread calls it."""

    def note(self, text: str) -> None:
        """The run reports a remark of one line."""

    def run_started(self, finished: int, best: TrialRecord | None) -> None:
        """A run starts or continues.

        Args:
            finished: trials of earlier runs, which count against its budget.
            best: the study's best trial so far.
        """

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        """The base model is loaded and evaluated without an adapter; None if that failed."""

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        """A trial's training begins."""

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        """The training process sent an event; `sample` is NVML's latest."""

    def others_running(self, trials: Sequence[TrialRecord]) -> None:
        """Other workers of the study run these trials now; called when this worker looks."""
        ...

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial is recorded, infeasible and lost ones too."""
