"""Tables of trials for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vram_search.report.words import bytes_caption, loss_cell, peak_cell, run_seconds
from vram_search.store import StudyRecord, TrialRecord
from vram_search.units import format_duration

OUTCOME_STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "oom": "red",
    "infeasible": "magenta",
    "diverged": "red",
    "lost": "dim",
}


def trial_table(
    trials: Sequence[TrialRecord], study: StudyRecord, title: str | None = None
) -> Table:
    """One row a trial; the caption says where the bytes come from."""
    table = Table(
        title=title,
        caption=bytes_caption(list(trials), study),
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold",
        caption_justify="left",
        title_justify="left",
    )
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("eval", justify="right", no_wrap=True)
    table.add_column("lr", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("target", overflow="fold")
    table.add_column("cut", justify="right", no_wrap=True)
    table.add_column("bs", justify="right", no_wrap=True)
    table.add_column("optim", overflow="fold")
    table.add_column("VRAM", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for trial in trials:
        hp = trial.hyperparameters
        outcome = trial.outcome or "running"
        table.add_row(
            str(trial.number),
            f"[{OUTCOME_STYLES.get(outcome, 'cyan')}]{outcome}[/]",
            loss_cell(trial.eval_loss),
            f"{hp['learning_rate']:.1e}",
            str(hp["lora_rank"]),
            hp["lora_target"],
            str(hp["cutoff_len"]),
            str(hp["batch_size"]),
            hp["optim"],
            peak_cell(trial).replace(" ", ""),
            format_duration(run_seconds(trial)).replace(" ", ""),
        )
    return table
