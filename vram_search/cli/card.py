"""`vram-search card N|best|pN`: the adapter with a model card, ready for the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from vram_search.cli.adapter import named_adapter
from vram_search.cli.console import echo
from vram_search.cli.options import (
    NamedPath,
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
    type=NamedPath(path_type=Path, file_okay=False),
    metavar="DIR",
    help="New folder; default ./adapters/STUDY-trial-N.",
)
@click.option(
    "--base",
    metavar="OWNER/NAME",
    help="The base model's name on the Hub, if it was read from a folder here.",
)
@study_option
@database_option
@json_option
def command(
    trial: str,
    output: Path | None,
    base: str | None,
    study: str | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Copies the adapter of trial N, of the best trial, or of product run pN (`train`) into a
    folder and writes its model card: data, settings, losses, bytes, versions, how to reproduce it.

    Nothing is uploaded: the command that does so is printed.

    \b
    Examples:
      vram-search card best
      vram-search card p3 -o my-adapter
      vram-search card best --base HuggingFaceTB/SmolLM2-135M-Instruct
    """
    from vram_search.answers.model_card import base_model, upload_line, write_adapter
    from vram_search.cli.new_folder import new_folder
    from vram_search.spec.hub_names import HUB_NAME

    if base is not None and not HUB_NAME.fullmatch(base):
        raise InputError(f"--base {base} is not a name on the Hub", "write it as OWNER/NAME")
    adapter, untuned = named_adapter(trial, study, database)
    folder = output or Path("adapters") / adapter.name
    if folder.exists():
        raise InputError(f"{folder} exists", "choose another folder with -o")
    with new_folder(folder) as part:
        write_adapter(adapter, untuned, part, base)
    line = upload_line(folder, adapter.name)
    if as_json:
        print_json({"folder": str(folder), "upload": line})
    else:
        echo(f"adapter and card: {folder}")
        if base is None and base_model(adapter) is None:
            echo(
                "note: adapter_config.json names the base model by its folder here; for the Hub,\n"
                "  write the card again with --base OWNER/NAME"
            )
        echo(f"next: {line}")
