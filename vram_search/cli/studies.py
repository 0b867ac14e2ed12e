"""`vram-search studies`: what is in the database."""

from __future__ import annotations

import click

from vram_search.answers.lookup import opened
from vram_search.cli.options import database_option, json_option, print_json
from vram_search.report.figures import card_title, study_json
from vram_search.report.words import loss_cell


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
    with opened(database) as store:
        rows = []
        for study in store.studies():
            top = store.top_trials(study.id, limit=1)
            rows.append((study, store.outcome_counts(study.id), top[0] if top else None))
    if as_json:
        print_json(
            [
                {
                    **study_json(study),
                    "outcomes": counts,
                    "best_trial": best.number if best else None,
                    "best_eval_loss": best.eval_loss if best else None,
                }
                for study, counts, best in rows
            ]
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("study", "model", "card", "trials", "best eval", "last activity"):
        table.add_column(name, overflow="fold")
    for study, counts, best in rows:
        table.add_row(
            study.name,
            str(study.model.get("name", "-")),
            card_title(study),
            str(sum(counts.values())),
            loss_cell(best.eval_loss if best else None),
            study.updated_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        )
    Console(highlight=False).print(table if rows else "no studies yet")
