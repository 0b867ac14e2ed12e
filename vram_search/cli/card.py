"""`vram-search card N|best|pN`: the adapter with a model card, ready for the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from vram_search.cli.adapter import named_adapter
from vram_search.cli.console import echo
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    study_option,
)
from vram_search.errors import InputError


@click.command("card", short_help="The adapter in a folder with a model card.")
@click.argument("trial", metavar="N|best|pN")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="New folder; default ./adapters/STUDY-trial-N.",
)
@study_option
@database_option
@json_option
def command(
    trial: str, output: Path | None, study: str | None, database: str | None, as_json: bool
) -> None:
    """Copies the adapter of trial N, of the best trial, or of product run pN (`train`) into a
    folder and writes its model card: data, settings, losses, bytes, versions, how to reproduce it.

    Nothing is uploaded: the command that does so is printed.

    \b
    Examples:
      vram-search card best
      vram-search card p3 -o my-adapter
    """
    from vram_search.answers.model_card import upload_line, write_adapter

    adapter, untuned = named_adapter(trial, study, database)
    folder = output or Path("adapters") / adapter.name
    if folder.exists():
        raise InputError(f"{folder} exists", "choose another folder with -o")
    write_adapter(adapter, untuned, folder)
    line = upload_line(folder, adapter.name)
    if as_json:
        print_json({"folder": str(folder), "upload": line})
    else:
        echo(f"adapter and card: {folder}\nnext: {line}")
