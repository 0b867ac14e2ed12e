"""`vram-search studies`: what is in the database."""

from __future__ import annotations

import click

from vram_search.answers.results import Results
from vram_search.cli.console import echo, make_console
from vram_search.cli.last_night import night_lines
from vram_search.cli.options import database_option, json_option, print_json
from vram_search.report.figures import card_title
from vram_search.report.words import loss_cell
from vram_search.units import format_bytes


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
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "model", "card", "trials", "best eval", "disk", "last activity"):
        table.add_column(name, overflow="fold")
    for summary in found:
        table.add_row(
            summary.study,
            str(summary.model.get("name", "-")),
            card_title(summary).removeprefix("NVIDIA GeForce "),
            str(sum(summary.outcomes.values())),
            loss_cell(summary.best_eval_loss),
            format_bytes(summary.disk_bytes),
            summary.updated_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        )
    make_console().print(table if found else "no studies yet")
    if found and (night := found[0].night) is not None:
        echo("\n".join(["", *night_lines(night, f"last run of {found[0].study}")]))
