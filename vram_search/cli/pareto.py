"""`vram-search pareto`: eval_loss against required bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vram_search.answers.lookup import find_study, opened
from vram_search.cli.best import none_complete
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.errors import InputError
from vram_search.report.figures import required_bytes, run_seconds, study_json
from vram_search.report.limits import Limits
from vram_search.report.pareto import pareto_front
from vram_search.report.trial_row import COLUMNS, trial_row
from vram_search.report.words import WIDTH, hyperparameter_words
from vram_search.store import StudyRecord, TrialRecord
from vram_search.units import format_bytes, format_duration


@click.command("pareto", short_help="What each GiB buys: eval_loss against required VRAM.")
@study_option
@click.option("--all", "every", is_flag=True, help="Beaten trials too, with what beats them.")
@database_option
@json_option
@csv_option
def command(
    study: str | None, every: bool, database: str | None, as_json: bool, as_csv: bool
) -> None:
    """Complete trials that no other beats in both eval_loss and required bytes, smallest first.

    Required bytes are measured where they were, else predicted (~). JSON and CSV hold every
    complete trial whose bytes are known, with on_front and beaten_by.

    \b
    Examples:
      vram-search pareto
      vram-search pareto --all
      vram-search pareto --csv > pareto.csv
    """
    refuse_both(as_json, as_csv)
    with opened(database) as store:
        record = find_study(store, study)
        trials = store.top_trials(record.id)
    if not trials:
        raise none_complete(record, trials, Limits())
    front = pareto_front(trials)
    if not front:
        raise InputError(
            f"the required bytes of study {record.name}'s trials are not known",
            "`vram-search top` lists their losses",
        )
    rows = [_row(trial, front) for trial in _by_size(trials)]
    if as_json:
        print_json({**study_json(record), "trials": rows})
    elif as_csv:
        print_csv((*COLUMNS, "on_front", "beaten_by"), rows)
    else:
        shown = _by_size(trials) if every else front
        click.echo("\n".join(_lines(record, shown, front, len(rows))))


def beaten_by(trial: TrialRecord, front: Sequence[TrialRecord]) -> int | None:
    """The trial of the front with the lowest loss among those that need no more bytes; None for a
    trial of the front itself."""
    size = required_bytes(trial)[0]
    assert size is not None
    better = [other for other in front if (required_bytes(other)[0] or 0) <= size]
    return None if better[-1].number == trial.number else better[-1].number


def _by_size(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    sized = [trial for trial in trials if required_bytes(trial)[0] is not None]
    return sorted(sized, key=lambda t: (required_bytes(t)[0] or 0, t.eval_loss or 0.0, t.number))


def _row(trial: TrialRecord, front: Sequence[TrialRecord]) -> dict[str, Any]:
    winner = beaten_by(trial, front)
    return {**trial_row(trial), "on_front": winner is None, "beaten_by": winner}


def _lines(
    study: StudyRecord, shown: Sequence[TrialRecord], front: Sequence[TrialRecord], sized: int
) -> list[str]:
    lines = [
        f"study {study.name}: Pareto front of {sized} complete trials, {len(front)} on it",
        f"{'#':>4} {'required':>10} {'eval_loss':>9} {'time':>13}  settings",
    ]
    for trial in shown:
        size, origin = required_bytes(trial)
        winner = beaten_by(trial, front)
        mark = "~" if origin == "predicted" else ""
        lines.append(
            f"{trial.number:>4} {mark + format_bytes(size):>10} {trial.eval_loss:>9.4f} "
            f"{format_duration(run_seconds(trial)):>13}  "
            + (f"beaten by {winner}" if winner is not None else "on the front")
        )
        lines.append(f"{'':6}{hyperparameter_words(trial.hyperparameters)}"[:WIDTH])
    lines.append("~ predicted" if any(required_bytes(t)[1] == "predicted" for t in shown) else "")
    return [line for line in lines if line]
