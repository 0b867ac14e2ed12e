"""`vram-search top`: the table of trials."""

from __future__ import annotations

import click

from vram_search.cli.console import echo, echo_styled, styled
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.report.trial_row import COLUMNS, trial_row
from vram_search.shown_text import shown


@click.command("top", short_help="Table of the best trials, or of all.")
@study_option
@click.option(
    "-n",
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    default=10,
    show_default=True,
    help="Trials shown.",
)
@click.option("--all", "every", is_flag=True, help="All trials by number, with any outcome.")
@database_option
@json_option
@csv_option
def command(
    study: str | None,
    rows: int,
    every: bool,
    database: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Complete trials, lowest eval_loss first.

    \b
    Examples:
      vram-search top -n 5
      vram-search top --all --csv > trials.csv
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.trials(study) if every else results.top(study, rows=rows)
    if as_json:
        print_json(answer.as_dict())
        return
    if as_csv:
        print_csv(COLUMNS, map(trial_row, answer.trials))
        return

    from vram_search.report.tables import table_lines
    from vram_search.report.wrapping import wrapped

    said = ", ".join(f"{count} {outcome}" for outcome, count in answer.outcomes.items() if count)
    kind = " (imported runs)" if answer.is_imported else ""
    title = f"study {answer.study}{kind}: {said or 'no trials yet'}"
    echo("\n".join(wrapped(answer.sentence, "")))
    echo_styled("\n".join(table_lines(answer.trials, answer, title, styled, shown)))
    if answer.not_ranked and not every:
        kinds = ", ".join(f"{count} {kind}" for kind, count in answer.not_ranked.items())
        echo(f"not ranked: {kinds} (`top --all` lists them)")
