"""`vram-search why N`: why a trial ended as it did."""

from __future__ import annotations

import click

from vram_search.answers.lookup import find_study, find_trial, opened
from vram_search.cli.csv_output import csv_option, print_figures, refuse_both
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.report.figures import study_json
from vram_search.report.why.evidence import Evidence
from vram_search.report.why.explain import Reason, explain
from vram_search.report.words import wrapped
from vram_search.store.losses import all_evaluations


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

    Predictions, margin and budget are those that its plan was judged by; a pruned trial is
    shown beside those that its study's strategy compared it with at its rung.

    \b
    Examples:
      vram-search why 7
      vram-search why 7 --json
    """
    refuse_both(as_json, as_csv)
    with opened(database) as store:
        record = find_study(store, study)
        found = find_trial(store, record, trial)
        reason = explain(
            Evidence(
                record,
                found,
                store.trials(record.id),
                all_evaluations(store, record.id),
                store.step_losses(found.id),
            )
        )
    outcome = found.outcome or "running"
    if as_json:
        answer = {"trial": found.number, "outcome": outcome, **vars(reason)}
        print_json({**study_json(record), **answer})
    elif as_csv:
        print_figures({"outcome": outcome, **reason.figures})
    else:
        click.echo("\n".join(_lines(reason)))


def _lines(reason: Reason) -> list[str]:
    lines = wrapped(reason.summary, "", "  ")
    lines += [line for fact in reason.facts for line in wrapped(fact, "  - ", "    ")]
    if reason.remedy:
        lines += wrapped(f"remedy: {reason.remedy}", "  ", "    ")
    return lines
