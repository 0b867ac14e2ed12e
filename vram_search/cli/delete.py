"""`vram-search delete STUDY`: removes a study from the database and from the disk."""

from __future__ import annotations

import click

from vram_search.cli.console import confirm, echo
from vram_search.cli.options import database_option
from vram_search.errors import InputError
from vram_search.units import counted


@click.command("delete", short_help="Delete a study with its trials and adapters.")
@click.argument("study")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_option
def command(study: str, yes: bool, database: str | None) -> None:
    """Deletes the study's record, adapters and log; its exports and report stay.

    \b
    Examples:
      vram-search delete first-try
      vram-search delete first-try --yes
    """
    from vram_search.answers.lookup import find_study
    from vram_search.store import open_store
    from vram_search.store.location import database_url
    from vram_search.worker.delete_study import delete_study

    url = database_url(database)
    store = open_store(url, create=False)
    try:
        record = find_study(store, study)
        trials = counted(sum(store.outcome_counts(record.id).values()), "trial", "trials")
        if not yes and not confirm(f"delete study {record.name} with {trials}?"):
            raise InputError("nothing was deleted", "answer y, or add --yes")
        delete_study(store, url, record.name)
    finally:
        store.close()
    echo(f"study {record.name} is deleted ({trials})")
