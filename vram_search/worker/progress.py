"""Writes the progress of a running trial to the store, for whoever watches it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from vram_search.errors import StoreError
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Resumed, Stage, Step
from vram_search.store import Store
from vram_search.store.progress import Progress, record_progress

WRITE_SECONDS = 2.0
"""The least time between two writes."""
MOST_POINTS = 400
"""Losses that are kept; every second one is dropped when there are more."""


@dataclass
class ProgressWriter:
    """Collects the events of one trial and writes its state every few seconds."""

    store: Store
    trial_id: int
    stage: str = "load"
    step: int = 0
    steps_total: int = 0
    losses: list[tuple[int, float | None]] = field(default_factory=list)
    evaluations: list[tuple[int, float | None]] = field(default_factory=list)
    allocated_bytes: int | None = None
    _written_at: float = 0.0

    def on_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        """Takes an event. A database that cannot be written must not end the trial."""
        if isinstance(event, Stage):
            self.stage, self.steps_total = event.stage, event.steps_total
        elif isinstance(event, Step):
            self.step, self.allocated_bytes = event.step, event.allocated_bytes
            self.losses.append((event.step, event.loss))
            if len(self.losses) > MOST_POINTS:
                self.losses = self.losses[::2]
        elif isinstance(event, Evaluated):
            self.evaluations.append((event.step, event.eval_loss))
        elif isinstance(event, Resumed):
            self.step = event.step
            stride = 1 + len(event.steps) // MOST_POINTS
            self.losses = [(step.step, step.loss) for step in event.steps[::stride]]
            self.evaluations = [(e.step, e.eval_loss) for e in event.evaluations]
        else:
            return
        if time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        with contextlib.suppress(StoreError):
            record_progress(self.store.engine, self.trial_id, self._state(sample))

    def _state(self, sample: GpuSample | None) -> Progress:
        return Progress(
            stage=self.stage,
            step=self.step,
            steps_total=self.steps_total,
            losses=self.losses,
            evaluations=self.evaluations,
            allocated_bytes=self.allocated_bytes,
            process_bytes=sample.process_bytes if sample else None,
            device_bytes=sample.device_bytes if sample else None,
        )
