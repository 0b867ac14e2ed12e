"""Shows a running search as a live table, with the card as a bar of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vram_search.cli.console import make_console
from vram_search.cli.plain_view import PlainView, QuietView
from vram_search.cli.run_state import RunState
from vram_search.cli.show import sparkline
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Ready
from vram_search.report.figures import run_seconds
from vram_search.report.words import hyperparameter_words, loss_cell, peak_cell
from vram_search.report.wrapping import WIDTH
from vram_search.spec import StudySpec
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import TrialRecord
from vram_search.store.faults import describe
from vram_search.units import format_bytes, format_duration
from vram_search.worker.stop_rule import StopRule

ROWS_SHOWN = 8
LEAST_BAR, MOST_BAR = 30, 90
"""Columns of the bar of the card."""
TREND = "trend of the best: "
NAMED_PARTS = 3
"""Parts of the peak that are named below the bar."""
STAGE_WORDS = {
    "load": "preparing",
    "probe": "testing the longest rows",
    "train": "training",
    "eval": "evaluating",
}


class LiveView(RunState):
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
        self._doing, self._doing_since = "loading the base model ...", time.monotonic()
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
        if text.endswith(" ..."):
            self._doing, self._doing_since = text, time.monotonic()

    def trial_ended(self, record: TrialRecord) -> None:
        super().trial_ended(record)
        self._doing, self._doing_since = "choosing the next trial ...", time.monotonic()

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        super().untuned_evaluated(eval_loss)
        self._doing, self._doing_since = "choosing the next trial ...", time.monotonic()

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
            if len(set(self.best_values)) > 1:
                fits = max(1, self._console.width - len(TREND))
                lines.append(Text(f"{TREND}{sparkline(self.best_values[-fits:])}"))
        elapsed = format_duration(time.monotonic() - self.began)
        left = f"elapsed {elapsed}, left {self.time_left()}; Ctrl-C stops"
        lines.append(Text(f"study {self.study.study}: {self.place_words}; {left}", style="dim"))
        return Group(*lines)

    def _table(self) -> Table:
        is_wide = self._console.width >= WIDTH
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", expand=is_wide)
        for name in ("#", "outcome", self.study.ranked_by.name, "VRAM", "time"):
            table.add_column(name, no_wrap=True)
        if is_wide:  # with a ratio, this column alone is cut
            table.add_column("settings", no_wrap=True, overflow="ellipsis", ratio=1)
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
            return [f"{self._doing} {format_duration(time.monotonic() - self._doing_since)}"]
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
        """The bytes in use or predicted, and the card as a bar of the predicted parts."""
        if self.planned is None:
            return []
        card, parts = self.study.card, self._parts()
        limit = card.total_bytes - card.reserve_bytes
        heat = None if self.sample is None else self.sample.temperature_celsius
        warmth = f", {heat:.0f} °C" if heat is not None else ""
        largest = sorted(parts, key=lambda name: -parts[name])[:NAMED_PARTS]
        named = [f"{name.replace('_', ' ')} {format_bytes(parts[name])}" for name in largest]
        width = min(MOST_BAR, max(LEAST_BAR, self._console.width - 8))
        return [
            f"  {self.memory_words} of {format_bytes(limit)}{warmth}",
            f"  [{parts_bar(parts, card.total_bytes, limit, width)}]",
            f"  {', '.join(named)}",
        ]

    def _parts(self) -> dict[str, int]:
        """The predicted bytes of the process by part, the CUDA context included."""
        assert self.planned is not None
        parts = {**self.planned.estimate.allocated_parts, "context": self.study.card.context_bytes}
        slack = self.planned.estimate.required_bytes - self.planned.estimate.allocated_bytes
        return {**parts, "allocator_slack": slack} if slack > 0 else parts


def parts_bar(parts: Mapping[str, int], total: int, limit: int, width: int) -> str:
    """The card as a bar: each part drawn with its first letter, `|` at the limit of the card.

    Args:
        total: bytes of the card.
        limit: bytes of the card without its reserve.
        width: columns.
    """
    drawn, before = ["."] * width, 0
    for name, size in parts.items():
        start, end = (min(width, round(at / total * width)) for at in (before, before + size))
        drawn[start:end] = [name[0]] * (end - start)
        before += size
    drawn[min(width - 1, round(limit / total * width))] = "|"
    return "".join(drawn)


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
