"""Shows a running search as plain lines, or not at all."""

from __future__ import annotations

import math
import time
from typing import Any

from vram_search.cli.console import echo
from vram_search.cli.night_words import advice_words, night_words
from vram_search.cli.run_state import RunState
from vram_search.estimate import PlannedTrial
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Probed, Step
from vram_search.report.figures import run_seconds
from vram_search.report.words import error_words, hyperparameter_words, loss_cell
from vram_search.search import Proposal
from vram_search.store import TrialRecord
from vram_search.store.faults import describe
from vram_search.units import format_bytes, format_duration

STEP_LINE_SECONDS = 30.0
"""Plain output tells a training's progress this often."""


class PlainView(RunState):
    """A line for each thing that happens."""

    _next_step_line = -math.inf
    _is_forecast = False

    def __enter__(self) -> PlainView:
        self.note(f"study {self.study.study}; database {describe(self.url)}")
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def note(self, text: str) -> None:
        echo(f"{time.strftime('%H:%M:%S')} {text}")

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        super().trial_started(proposal, planned)
        said = hyperparameter_words(proposal.hyperparameters.model_dump())
        plan = planned.plan
        batch = f"{plan.per_device_train_batch_size} x {plan.gradient_accumulation_steps}"
        self.note(f"trial {proposal.number}: {said}")
        self.note(f"  micro-batch {batch}, {self.memory_words}")

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        super().trial_event(event, sample)
        if isinstance(event, Probed):
            peak = event.allocated_bytes
            words = f", peak {format_bytes(peak)} allocated (measured)" if peak else ""
            self.note(f"  probe passed in {format_duration(event.seconds)}{words}")
        elif isinstance(event, Evaluated):
            value = loss_cell(self.study.ranked_by.value_of(event))
            self.note(f"  eval at step {event.step} of {self.steps_total}: {value}")
        elif isinstance(event, Step) and time.monotonic() > self._next_step_line:
            self._next_step_line = time.monotonic() + STEP_LINE_SECONDS
            self.note(f"  step {event.step} of {self.steps_total}, loss {loss_cell(event.loss)}")
        if not self._is_forecast and (night := self.night()) is not None:
            self._is_forecast = True
            self.note(f"forecast from measured steps: {night_words(night)}")
            if self.stop.trials is None and (advice := advice_words(night)):
                self.note(advice)

    def trial_ended(self, record: TrialRecord) -> None:
        super().trial_ended(record)
        words = error_words(record)
        self.note(
            f"trial {record.number}: {record.outcome}, "
            f"{record.value_name} {loss_cell(record.value)}, "
            f"{format_duration(run_seconds(record))}" + (f"; {words}" if words else "")
        )
        if record is self.best:
            self.note(f"  {self.best_words}")


class QuietView(RunState):
    """Nothing: for --json."""

    def __enter__(self) -> QuietView:
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def note(self, text: str) -> None:
        return None
