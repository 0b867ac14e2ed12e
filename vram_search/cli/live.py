"""Shows a running search: a live table, or plain lines without a terminal."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vram_search.cli.console import echo, ignore_output, make_console
from vram_search.cli.night_words import advice_words, night_words
from vram_search.cli.show import sparkline
from vram_search.estimate import PlannedTrial
from vram_search.estimate.night import NightForecast, forecast_night, seconds_of
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Probed, Ready, Resumed, Stage, Step
from vram_search.report.figures import run_seconds
from vram_search.report.winner import loss_words
from vram_search.report.words import WIDTH, error_words, hyperparameter_words, loss_cell, peak_cell
from vram_search.search import Proposal
from vram_search.search.study_constraints import keeps_all
from vram_search.spec import StudySpec
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import TrialRecord
from vram_search.store.faults import describe
from vram_search.units import format_bytes, format_duration
from vram_search.worker.stop_rule import FINISHED, StopRule

ROWS_SHOWN = 8
FORECAST_STEPS = 4
"""Measured steps before the night is forecast from them."""
BAR_WIDTH = 40
STAGE_WORDS = {
    "load": "preparing",
    "probe": "testing the longest rows",
    "train": "training",
    "eval": "evaluating",
}
STEP_LINE_SECONDS = 30.0
"""Plain output tells a training's progress this often."""


class Progress:
    """The state of a run, from its events; the views share it.

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
        self.is_loaded = False
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

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        self.is_loaded, self.untuned_loss = True, eval_loss

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

    @property
    def best_words(self) -> str:
        """The best trial of the study and since when; empty if no trial is complete."""
        if self.best is None or self.best.value is None:
            return ""
        words = loss_words(self.best.value, self.untuned_loss)
        since = self.best.finished_at
        when = f", since {since.astimezone():%H:%M}" if since is not None else ""
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
        known = [seconds for seconds in stopped if seconds]
        return forecast_night(
            full,
            max(0.0, left),
            stopped_seconds=statistics.median(known) if known else None,
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
        ends = time.strftime("%H:%M", time.localtime(time.time() + night.seconds))
        return f"trial {number} of {about}{total}, ends about {ends}"

    @property
    def memory_words(self) -> str:
        """The current trial's bytes, measured where there is a GPU."""
        if self.sample is not None and self.sample.process_bytes is not None:
            return f"{format_bytes(self.sample.process_bytes)} in use (process, measured)"
        if self.allocated_bytes is not None:
            return f"{format_bytes(self.allocated_bytes)} allocated (measured)"
        if self.planned is not None:
            required = format_bytes(self.planned.estimate.required_bytes)
            return f"{required} required (predicted for {self.study.card.label})"
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


class PlainView(Progress):
    """A line for each thing that happens."""

    def __init__(
        self,
        study: StudySpec,
        stop: StopRule,
        url: str,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(study, stop, url, check)
        self._next_step_line = -math.inf
        self._is_forecast = False

    def __enter__(self) -> PlainView:
        self.note(f"study {self.study.study}; database {describe(self.url)}")
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def note(self, text: str) -> None:
        try:
            echo(f"{time.strftime('%H:%M:%S')} {text}")
        except BrokenPipeError:  # `run | head`: the search goes on, and the log has the rest
            ignore_output()

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        super().trial_started(proposal, planned)
        said = hyperparameter_words(proposal.hyperparameters.model_dump())
        self.note(
            f"trial {proposal.number}: {said}; plan {planned.plan.label}, {self.memory_words}"
        )

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


class QuietView(Progress):
    """Nothing: for --json."""

    def __enter__(self) -> QuietView:
        return self

    def __exit__(self, *exception: Any) -> None:
        return None

    def note(self, text: str) -> None:
        return None


class LiveView(Progress):
    """A table that stays in place: the current trial, the last ones, the best, the time left."""

    def __init__(
        self,
        study: StudySpec,
        stop: StopRule,
        url: str,
        console: Console,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(study, stop, url, check)
        self._console = console
        self._searched = list(filter(study.space.is_searched, DIMENSIONS))
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> LiveView:
        self.note(f"study {self.study.study}; database {describe(self.url)}")
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        super().trial_event(event, sample)
        if isinstance(event, Ready):
            self.stage = "ready"

    def _draw(self) -> Group:
        lines: list[Any] = [Text("")]
        if self.ended:
            lines.append(self._table())
        lines.append(Text(""))
        lines += [Text(line) for line in self._current()]
        if self.elsewhere:
            lines.append(Text(f"other workers run {_trials_elsewhere(self.elsewhere)}"))
        if best := self.best_words:
            lines.append(Text(best, style="bold green"))
        elapsed = format_duration(time.monotonic() - self.began)
        left = f"elapsed {elapsed}, left {self.time_left()}; Ctrl-C stops"
        lines.append(Text(f"study {self.study.study}: {self.place_words}; {left}", style="dim"))
        return Group(*lines)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("#", "outcome", self.study.ranked_by.name, "VRAM", "time"):
            table.add_column(name, no_wrap=True)
        is_wide = self._console.width >= WIDTH
        if is_wide:
            table.add_column("settings", no_wrap=True, overflow="ellipsis")
        for trial in self.ended[-ROWS_SHOWN:]:
            hp = trial.hyperparameters
            settings = " ".join(one.in_words(one.value_in(hp)) for one in self._searched)
            table.add_row(
                str(trial.number),
                str(trial.outcome),
                loss_cell(trial.value),
                peak_cell(trial),
                format_duration(run_seconds(trial)),
                *([settings] if is_wide else []),
            )
        return table

    def _current(self) -> list[str]:
        if self.proposal is None or self.planned is None:
            if not self.is_loaded:
                return ["loading the base model and evaluating it untuned ..."]
            return ["choosing the next trial ..."]
        said = hyperparameter_words(self.proposal.hyperparameters.model_dump())
        head = f"trial {self.proposal.number}: {said}"
        running = format_duration(time.monotonic() - self.trial_began)
        doing = STAGE_WORDS.get(self.stage, self.stage)
        state = f"  {doing}, {running}"
        if self.losses:
            state = (
                f"  {doing}, step {self.step} of {self.steps_total}, "
                f"loss {loss_cell(self.losses[-1])}, {running}"
            )
        lines = [head, state]
        if self.losses:
            lines.append(f"  {sparkline(self.losses)}")
        return [*lines, *self._memory_lines()]

    def _memory_lines(self) -> list[str]:
        """The bytes in use, with a bar against the card where they are measured."""
        lines, sample = [f"  {self.memory_words}"], self.sample
        if sample is None or sample.process_bytes is None:
            return lines
        total = self.study.card.total_bytes
        filled = min(BAR_WIDTH, round(BAR_WIDTH * sample.process_bytes / total))
        heat = sample.temperature_celsius
        warmth = f", {heat:.0f} °C" if heat is not None else ""
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
        return [*lines, f"  {bar} of {format_bytes(total)}{warmth}"]


def _trials_elsewhere(trials: Sequence[TrialRecord]) -> str:
    """Names running trials by machine: "trials 4, 7 on host-a, trial 5 on host-b"."""
    by_host: dict[str, list[str]] = {}
    for trial in trials:
        by_host.setdefault(trial.host or "this machine", []).append(str(trial.number))
    return ", ".join(
        f"trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} on {host}"
        for host, numbers in by_host.items()
    )


def make_view(
    study: StudySpec, stop: StopRule, url: str, check: Callable[[], None], *, quiet: bool
) -> PlainView | QuietView | LiveView:
    """The view that fits where the output goes; `check` as for `Progress`."""
    console = make_console()
    if quiet:
        return QuietView(study, stop, url, check)
    if console.is_terminal:
        return LiveView(study, stop, url, console, check)
    return PlainView(study, stop, url, check)
