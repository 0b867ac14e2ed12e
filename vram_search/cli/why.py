"""`vram-search why N`: why a trial ended as it did."""

from __future__ import annotations

import click

from vram_search.answers.why import WhyAnswer
from vram_search.cli.console import echo
from vram_search.cli.csv_output import csv_option, print_figures, refuse_both
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.report.wrapping import wrapped


@click.command("why", short_help="Why a trial ended as it did, with the figures.")
@click.argument("trial", metavar="N|best")
@study_option
@database_option
@json_option
@csv_option
def command(
    trial: str, study: str | None, database: str | None, as_json: bool, as_csv: bool
) -> None:
    """Why trial N was pruned, infeasible, out of memory, diverged or lost.

    Predictions, margin and VRAM limit are those that its plan was judged by; a pruned trial is
    shown beside those that its study's strategy compared it with at its rung.

    \b
    Examples:
      vram-search why 7
      vram-search why 7 --json
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.why(trial, study)
    if as_json:
        print_json(answer.as_dict())
    elif as_csv:
        print_figures({"outcome": answer.outcome, **answer.figures})
    else:
        echo("\n".join(_lines(answer)))


def _lines(answer: WhyAnswer) -> list[str]:
    lines = wrapped(answer.summary, "", "  ")
    lines += [line for fact in answer.facts for line in wrapped(fact, "  - ", "    ")]
    if answer.remedy:
        lines += wrapped(f"remedy: {answer.remedy}", "  ", "    ")
    return lines
