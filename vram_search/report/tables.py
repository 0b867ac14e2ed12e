"""Tables of trials for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from vram_search.report.dimensions import shown_dimensions
from vram_search.report.figures import peak, run_seconds
from vram_search.report.trial_fields import StudyFields, TrialFields
from vram_search.report.words import WIDTH, bytes_caption, kind_words, loss_cell
from vram_search.units import GIB, format_duration

OUTCOME_STYLES = {
    "complete": "green",
    "pruned": "dim",
    "oom": "red",
    "infeasible": "magenta",
    "diverged": "red",
    "lost": "dim",
    "unknown": "dim",
}


_LEFT_OUT_IF_NARROW = ("optim", "cutoff_len")


def trial_table(
    trials: Sequence[TrialFields],
    study: StudyFields,
    title: str | None = None,
    width: int = WIDTH,
) -> Table:
    """One row a trial; the caption says where the bytes come from.

    Imported runs have their name too, and their kind if one is no plain supervised LoRA training.
    Names are printed as they are, whatever brackets they hold.

    Args:
        width: columns of the terminal; below 80, settings that rarely decide are left out.
    """
    table = Table(
        title=Text(title) if title else None,
        caption=Text("\n".join([bytes_caption(trials, study), *_begun_again(trials)])),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style="bold",
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("#", justify="right", no_wrap=True)
    kinds = [kind_words(trial) for trial in trials]
    if study.is_imported:
        table.add_column("run", overflow="fold")
    if any(kinds):
        table.add_column("kind", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    table.add_column(study.ranked_by.short, justify="right", no_wrap=True)
    dimensions = shown_dimensions(trials)
    if width < WIDTH:
        dimensions = tuple(one for one in dimensions if one.name not in _LEFT_OUT_IF_NARROW)
    for dimension in dimensions:
        if dimension.is_name:
            table.add_column(dimension.short, overflow="fold")
        else:
            justify: JustifyMethod = "left" if dimension.kind == "log" else "right"
            table.add_column(dimension.short, justify=justify, no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for trial, kind in zip(trials, kinds, strict=True):
        hp = trial.hyperparameters
        outcome = trial.outcome or "running"
        table.add_row(
            str(trial.number),
            *([Text(trial.provenance["run"])] if trial.provenance else []),
            *([Text(kind)] if any(kinds) else []),
            Text(outcome, style=OUTCOME_STYLES.get(outcome, "cyan")),
            loss_cell(trial.value),
            *(Text(one.shown(one.value_in(hp))) for one in dimensions),
            _gib(trial),
            format_duration(run_seconds(trial)).replace(" ", ""),
        )
    return table


def _begun_again(trials: Sequence[TrialFields]) -> list[str]:
    """Says of rows that are alike which was stopped; a lost trial's outcome says it already."""
    stopped = {trial.number for trial in trials if trial.outcome == "pruned"}
    pairs = [f"{t.retry_of} as {t.number}" for t in trials if t.retry_of in stopped]
    return [f"stopped too early and restarted: {', '.join(pairs)}"] if pairs else []


def _gib(trial: TrialFields) -> str:
    """The trial's peak; ~ marks a prediction."""
    size, origin = peak(trial)
    if size is None:
        return "-"
    return f"{'~' if origin == 'predicted' else ''}{size / GIB:.2f}"
