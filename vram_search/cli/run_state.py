"""The state of a running search, from its events; the views of `run` share it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from vram_search.estimate import PlannedTrial
from vram_search.estimate.night import NightForecast, forecast_night, seconds_of
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Resumed, Stage, Step
from vram_search.report.figures import run_seconds
from vram_search.report.winner import loss_words
from vram_search.search import Proposal
from vram_search.search.study_constraints import keeps_all
from vram_search.spec import StudySpec
from vram_search.store import TrialRecord
from vram_search.units import ago_words, end_words, format_bytes, format_duration
from vram_search.worker.stop_rule import FINISHED, StopRule

FORECAST_STEPS = 4
"""Measured steps before the night is forecast from them."""


class RunState:
    """The state of a run.

    Args:
        check: called before each trial and with each event; it raises KeyboardInterrupt if the run
            was interrupted and goes on all the same.
    """

    def __init__(
        self,
        study: StudySpec,
        stop: StopRule,
        url: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.study, self.stop, self.url, self._check = study, stop, url, check
        self.began = time.monotonic()
        self.finished_before = 0
        self.ended: list[TrialRecord] = []
        self.elsewhere: Sequence[TrialRecord] = ()
        """Trials that other workers run, as of this worker's latest look."""
        self.best: TrialRecord | None = None
        """The best trial of the study that keeps its constraints, earlier runs included."""
        self.best_values: list[float] = []
        """The value of the best trial so far, after each complete trial."""
        self.untuned_loss: float | None = None
        self.step_seconds: list[float] = []
        self.eval_seconds = 0.0
        self.proposal: Proposal | None = None
        self.planned: PlannedTrial | None = None
        self.trial_began = time.monotonic()
        self.stage, self.step, self.steps_total = "", 0, 0
        self.losses: list[float | None] = []
        self.allocated_bytes: int | None = None
        self.sample: GpuSample | None = None

    def run_started(self, finished: int, best: TrialRecord | None) -> None:
        self.finished_before, self.best = finished, best
        if best is not None and best.value is not None:
            self.best_values.append(best.value)

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        self.untuned_loss = eval_loss

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        self._check()
        self.proposal, self.planned = proposal, planned
        self.trial_began = time.monotonic()
        self.stage, self.step, self.steps_total, self.losses = "load", 0, 0, []
        self.step_seconds = []
        self.allocated_bytes = self.sample = None

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        self._check()
        self.sample = sample
        if isinstance(event, Stage):
            self.stage, self.steps_total = event.stage, event.steps_total
        elif isinstance(event, Step):
            self.step = event.step
            self.losses.append(event.loss)
            self.step_seconds.append(event.seconds)
            self.allocated_bytes = event.allocated_bytes
        elif isinstance(event, Resumed):
            self.step, self.losses = event.step, [step.loss for step in event.steps]
        elif isinstance(event, Evaluated):
            self.eval_seconds = event.seconds

    def others_running(self, trials: Sequence[TrialRecord]) -> None:
        self.elsewhere = trials

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended.append(record)
        self.proposal = self.planned = None
        if (
            record.outcome == "complete"
            and record.value is not None
            and keeps_all(self.study.constraints, record)
        ):
            known = math.inf if self.best is None else self.best.value or math.inf
            if record.value < known:
                self.best = record
            self.best_values.append(min(record.value, known))

    @property
    def best_words(self) -> str:
        """The best trial of the study and since when; empty if no trial is complete."""
        if self.best is None or self.best.value is None:
            return ""
        words = loss_words(self.best.value, self.untuned_loss)
        since = self.best.finished_at
        when = f", since {ago_words(since)}" if since is not None else ""
        return f"best so far: trial {self.best.number}, {self.best.value_name} {words}{when}"

    def full_seconds(self) -> float | None:
        """Seconds of a full trial, measured: of complete ones, else by the steps of this one."""
        complete = [t for t in self.ended if t.outcome == "complete"]
        durations = [seconds for t in complete if (seconds := run_seconds(t)) is not None]
        if durations:
            return statistics.median(durations)
        if len(self.step_seconds) < FORECAST_STEPS:
            return None
        step = statistics.median(self.step_seconds[1:])  # the first one warms up
        evaluations = (len(self.study.training.rungs) + 1) * self.eval_seconds
        return self.steps_total * step + evaluations

    def night(self) -> NightForecast | None:
        """Forecast of the time that is left; None before a few steps are measured."""
        full, left = self.full_seconds(), self.stop.seconds_left
        if full is None or full <= 0:
            return None
        finished = self.finished_before + sum(t.outcome in FINISHED for t in self.ended)
        workers = 1 + len(self.elsewhere)
        if left is None:
            if self.stop.trials is None:
                return None
            left = (seconds_of(self.stop.trials, full) - seconds_of(finished, full)) / workers
        stopped = [run_seconds(t) for t in self.ended if t.outcome == "pruned"]
        return forecast_night(
            full,
            max(0.0, left),
            stopped_seconds=[seconds for seconds in stopped if seconds],
            full_so_far=sum(t.outcome == "complete" for t in self.ended),
            workers=workers,
        )

    @property
    def place_words(self) -> str:
        """The trial's place in the search: "trial 4 of about 11, ends about 07:00"."""
        number = self.finished_before + sum(t.outcome in FINISHED for t in self.ended) + 1
        if (night := self.night()) is None:
            return f"trial {number}"
        total = self.stop.trials or number - 1 + max(1, night.trials)
        about = "" if self.stop.trials else "about "
        return f"trial {number} of {about}{total}, ends about {end_words(night.seconds)}"

    @property
    def memory_words(self) -> str:
        """The current trial's bytes, measured where there is a GPU."""
        if self.sample is not None and self.sample.process_bytes is not None:
            return f"{format_bytes(self.sample.process_bytes)} in use (process, measured)"
        if self.allocated_bytes is not None:
            return f"{format_bytes(self.allocated_bytes)} allocated (measured)"
        if self.planned is not None:
            return f"{format_bytes(self.planned.estimate.required_bytes)} needed (predicted)"
        return "-"

    def time_left(self) -> str:
        """Time until the deadline, or until the trials are done if each takes as long as so far."""
        if (left := self.stop.seconds_left) is not None:
            return format_duration(max(0.0, left))
        finished = [t for t in self.ended if t.outcome in FINISHED]
        if not finished or self.stop.trials is None:
            return "unknown until a trial is finished"
        seconds_per_trial = (time.monotonic() - self.began) / len(finished)
        to_go = max(0, self.stop.trials - self.finished_before - len(finished))
        return f"about {format_duration(seconds_per_trial * to_go)}"
