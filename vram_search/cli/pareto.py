"""`vram-search pareto`: eval_loss against required bytes."""

from __future__ import annotations

import click

from vram_search.answers.pareto import ParetoAnswer
from vram_search.cli.console import echo
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.report.trial_row import COLUMNS
from vram_search.report.words import hyperparameter_words
from vram_search.report.wrapping import answer_width, wrapped
from vram_search.units import counted, format_bytes, format_duration


@click.command("pareto", short_help="What each GiB buys: eval_loss against VRAM needed.")
@study_option
@click.option("--all", "every", is_flag=True, help="Beaten trials too, with what beats them.")
@database_option
@json_option
@csv_option
def command(
    study: str | None, every: bool, database: str | None, as_json: bool, as_csv: bool
) -> None:
    """Complete trials that no other beats in both eval_loss and VRAM needed, smallest first.

    VRAM needed is the measured figure, or else the predicted one (~). JSON and CSV hold every
    complete trial with known bytes, with on_front and beaten_by.

    \b
    Examples:
      vram-search pareto
      vram-search pareto --all
      vram-search pareto --csv > pareto.csv
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.pareto(study)
    if as_json:
        print_json(answer.as_dict())
    elif as_csv:
        print_csv((*COLUMNS, "on_front", "beaten_by"), answer.as_dict()["trials"])
    else:
        echo("\n".join(_lines(answer, every=every)))


def _lines(answer: ParetoAnswer, *, every: bool) -> list[str]:
    front = [trial for trial in answer.trials if trial.on_front]
    shown = answer.trials if every else front
    width = max(9, len(answer.objective))
    lines = [
        *wrapped(answer.sentence, ""),
        *wrapped(
            f"study {answer.study}: what each GiB buys; {len(front)} of "
            f"{counted(len(answer.trials), 'complete trial is', 'complete trials are')} on the "
            "Pareto front",
            "",
        ),
        f"{'#':>4} {'needed':>10} {answer.objective:>{width}} {'took':>13}",
    ]
    for trial in shown:
        mark = "~" if trial.required_bytes_origin == "predicted" else ""
        lines.append(
            f"{trial.number:>4} {mark + format_bytes(trial.required_bytes):>10} "
            f"{trial.value:>{width}.4f} {format_duration(trial.seconds):>13}  "
            + (f"beaten by {trial.beaten_by}" if not trial.on_front else "on the front")
        )
        settings = (
            trial.settings if answer.is_imported else {**trial.settings, "model": trial.model}
        )
        lines.append(f"{'':6}{hyperparameter_words(settings)}"[: answer_width()])
    if any(trial.required_bytes_origin == "predicted" for trial in shown):
        lines.append("~ predicted")
    return lines
