"""Shows a running search: a live table, or plain lines without a terminal."""

from __future__ import annotations

import math
import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vram_search.cli.console import echo, make_console
from vram_search.cli.show import sparkline
from vram_search.estimate import PlannedTrial
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Evaluated, Probed, Ready, Stage, Step
from vram_search.report.figures import run_seconds
from vram_search.report.words import error_words, hyperparameter_words, loss_cell, peak_cell
from vram_search.search import Proposal
from vram_search.spec import StudySpec
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import TrialRecord
from vram_search.store.faults import describe
from vram_search.units import format_bytes, format_duration
from vram_search.worker.run import FINISHED, StopRule

ROWS_SHOWN = 8
STEP_LINE_SECONDS = 30.0
"""Plain output tells a training's progress this often."""


class Progress:
    """The state of a run, from its events; the views share it."""

    def __init__(self, study: StudySpec, stop: StopRule, url: str) -> None:
        self.study, self.stop, self.url = study, stop, url
        self.began = time.monotonic()
        self.finished_before = 0
        self.ended: list[TrialRecord] = []
        self.proposal: Proposal | None = None
        self.planned: PlannedTrial | None = None
        self.trial_began = time.monotonic()
        self.stage, self.step, self.steps_total = "", 0, 0
        self.losses: list[float | None] = []
        self.allocated_bytes: int | None = None
        self.sample: GpuSample | None = None

    def run_started(self, finished: int) -> None:
        self.finished_before = finished

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        self.proposal, self.planned = proposal, planned
        self.trial_began = time.monotonic()
        self.stage, self.step, self.steps_total, self.losses = "load", 0, 0, []
        self.allocated_bytes = self.sample = None

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        self.sample = sample
        if isinstance(event, Stage):
            self.stage, self.steps_total = event.stage, event.steps_total
        elif isinstance(event, Step):
            self.step = event.step
            self.losses.append(event.loss)
            self.allocated_bytes = event.allocated_bytes

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended.append(record)
        self.proposal = self.planned = None

    @property
    def best(self) -> TrialRecord | None:
        """The best trial of this run."""
        complete = [t for t in self.ended if t.outcome == "complete" and t.eval_loss is not None]
        return min(complete, key=lambda t: t.eval_loss or 0.0, default=None)

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

    def __init__(self, study: StudySpec, stop: StopRule, url: str) -> None:
        super().__init__(study, stop, url)
        self._next_step_line = -math.inf

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
            self.note(
                f"  eval at step {event.step} of {self.steps_total}: {loss_cell(event.eval_loss)}"
            )
        elif isinstance(event, Step) and time.monotonic() > self._next_step_line:
            self._next_step_line = time.monotonic() + STEP_LINE_SECONDS
            self.note(f"  step {event.step} of {self.steps_total}, loss {loss_cell(event.loss)}")

    def trial_ended(self, record: TrialRecord) -> None:
        super().trial_ended(record)
        words = error_words(record)
        self.note(
            f"trial {record.number}: {record.outcome}, eval_loss {loss_cell(record.eval_loss)}, "
            f"{format_duration(run_seconds(record))}" + (f"; {words}" if words else "")
        )


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

    def __init__(self, study: StudySpec, stop: StopRule, url: str, console: Console) -> None:
        super().__init__(study, stop, url)
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
        best = self.best
        if best is not None:
            lines.append(
                Text(
                    f"best so far: trial {best.number}, eval_loss {loss_cell(best.eval_loss)}",
                    style="bold green",
                )
            )
        elapsed = format_duration(time.monotonic() - self.began)
        lines.append(Text(f"elapsed {elapsed}, left {self.time_left()}; Ctrl-C stops", style="dim"))
        return Group(*lines)

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("#", "outcome", "eval_loss", "configuration", "VRAM", "time"):
            table.add_column(name, overflow="fold")
        for trial in self.ended[-ROWS_SHOWN:]:
            hp = trial.hyperparameters
            table.add_row(
                str(trial.number),
                str(trial.outcome),
                loss_cell(trial.eval_loss),
                " ".join(one.in_words(one.value_in(hp)) for one in self._searched),
                peak_cell(trial),
                format_duration(run_seconds(trial)),
            )
        return table

    def _current(self) -> list[str]:
        if self.proposal is None or self.planned is None:
            return ["choosing the next trial ..."]
        said = hyperparameter_words(self.proposal.hyperparameters.model_dump())
        head = f"trial {self.proposal.number}: {said}"
        running = format_duration(time.monotonic() - self.trial_began)
        state = f"  {self.stage}, {running}"
        if self.losses:
            state = (
                f"  {self.stage}, step {self.step} of {self.steps_total}, "
                f"loss {loss_cell(self.losses[-1])}, {running}"
            )
        lines = [head, state]
        if self.losses:
            lines.append(f"  {sparkline(self.losses)}")
        return [*lines, f"  {self.memory_words}"]


def make_view(
    study: StudySpec, stop: StopRule, url: str, *, quiet: bool
) -> PlainView | QuietView | LiveView:
    """The view that fits where the output goes."""
    console = make_console()
    if quiet:
        return QuietView(study, stop, url)
    if console.is_terminal:
        return LiveView(study, stop, url, console)
    return PlainView(study, stop, url)
