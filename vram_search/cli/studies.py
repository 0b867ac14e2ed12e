"""`vram-search studies`: what is in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vram_search.answers.results import Results
from vram_search.cli.console import echo
from vram_search.cli.last_night import night_lines
from vram_search.cli.options import database_option, json_option, print_json
from vram_search.report.figures import card_title
from vram_search.report.words import loss_cell
from vram_search.report.wrapping import wrapped
from vram_search.spec.objective import EVAL_LOSS
from vram_search.units import format_bytes

if TYPE_CHECKING:
    from vram_search.answers.studies import StudySummary


@click.command("studies", short_help="The studies in the database.")
@database_option
@json_option
def command(database: str | None, as_json: bool) -> None:
    """All studies, newest activity first.

    \b
    Examples:
      vram-search studies
      vram-search studies --json
    """
    with Results.open(database) as results:
        found = results.studies()
    if as_json:
        print_json([summary.as_dict() for summary in found])
        return
    echo("\n".join(_lines(found)) if found else "no studies yet")
    if found and (night := found[0].night) is not None:
        echo("\n".join(["", *night_lines(night, f"last run of {found[0].study}")]))


def _lines(found: Sequence[StudySummary]) -> list[str]:
    """Two lines for each study: its figures, then its model and card."""
    lines = [f"{'trials':>6}  {'best':<14}  {'disk':>8}  {'last activity':<16}  study"]
    for summary in found:
        lines.append(
            f"{sum(summary.outcomes.values()):>6}  {_best(summary):<14}  "
            f"{('?' if summary.disk_bytes is None else format_bytes(summary.disk_bytes)):>8}  "
            f"{summary.updated_at.astimezone():%Y-%m-%d %H:%M}  {summary.study}"
        )
        card = card_title(summary).removeprefix("NVIDIA GeForce ")
        lines += wrapped(f"{summary.model.get('name', '-')} on {card}", " " * 8)
    return lines


def _best(summary: StudySummary) -> str:
    """The best value; another objective than eval_loss is named."""
    value, objective = loss_cell(summary.best_value), summary.ranked_by
    return value if objective.name == EVAL_LOSS else f"{value} {objective.short}"
