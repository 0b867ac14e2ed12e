"""`vram-search export N|best`: a trial as files for the tool that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vram_search.answers.lookup import find_trial, opened
from vram_search.cli.console import echo
from vram_search.cli.options import (
    NamedPath,
    database_option,
    json_option,
    meant_study,
    print_json,
    study_option,
)
from vram_search.resources import shell_word
from vram_search.store.location import file_name
from vram_search.tools import EXPORTED
from vram_search.units import percent


@click.command("export", short_help=f"Write a trial for {', '.join(EXPORTED)}.")
@click.argument("trial", metavar="N|best")
@study_option
@click.option(
    "--to",
    type=click.Choice(list(EXPORTED)),
    default=next(iter(EXPORTED)),
    show_default=True,
    help="Tool that trains it.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, file_okay=False),
    help="Folder; default ./exports/STUDY.",
)
@click.option("--template", help="LLaMA-Factory's template; default: found by the model.")
@click.option(
    "--full",
    is_flag=True,
    help="Train all epochs where `run --fit-night` shortened the trials.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@database_option
@json_option
def command(
    trial: str,
    study: str | None,
    to: str,
    output: Path | None,
    template: str | None,
    full: bool,
    force: bool,
    database: str | None,
    as_json: bool,
) -> None:
    """Writes the training YAML, the rows it needs, and scripts that start it.

    NAME.sh starts it from bash, NAME.ps1 from PowerShell. The files' first lines say
    where the trial comes from and what the tool does differently.

    \b
    Examples:
      vram-search export best
      vram-search export best --to axolotl
      vram-search export best --full
      vram-search export 7 -o somewhere --template qwen
    """
    from vram_search.export.recorded import at_full_length, write_recorded

    with opened(database) as store:
        record = meant_study(store, study)
        found = find_trial(store, record, trial)
    folder = output or Path("exports") / file_name(record.name)
    if full:
        record, found, share = at_full_length(record, found)
        echo(
            f"note: the trial trained {percent(share)} of the study's epochs; the files train all",
            err=True,
        )
    paths = write_recorded(record, found, folder, to=to, template=template, force=force)
    if as_json:
        print_json({"trial": found.number, "files": [str(path) for path in paths]})
    else:
        echo("\n".join([*(str(path) for path in paths), *_start_lines(paths)]))


def _start_lines(paths: Sequence[Path]) -> list[str]:
    """How to start the training from bash and from PowerShell."""
    scripts = {path.suffix: path for path in paths}
    if ".sh" not in scripts or ".ps1" not in scripts:
        return []
    bash, powershell = shell_word(scripts[".sh"]), shell_word(scripts[".ps1"])
    return [f"start it: bash {bash}", f"  (Windows: powershell -File {powershell})"]
