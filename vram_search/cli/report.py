"""`vram-search report`: the night as one HTML file, and its charts as SVG."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from vram_search.cli.options import (
    database_option,
    find_study,
    json_option,
    opened,
    print_json,
)
from vram_search.errors import InputError


@click.command("report", short_help="Write the results as one HTML file.")
@click.argument("study", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="File to write; replaced where it is there.",
)
@click.option(
    "--plots",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write every chart as an SVG file too.",
)
@database_option
@json_option
def command(
    study: str | None, output: Path, plots: Path | None, database: str | None, as_json: bool
) -> None:
    """Writes what STUDY found (default: the latest) as one HTML file that needs no network.

    \b
    Examples:
      vram-search report
      vram-search report td-010 -o morning.html --plots docs/plots
    """
    from vram_search.report.page.html import render, write_plots
    from vram_search.report.page.night import load_night

    with opened(database) as store:
        night = load_night(store, find_study(store, study))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(render(night, datetime.now(UTC)), encoding="utf-8")
        files = [output, *(write_plots(night, plots) if plots else [])]
    except OSError as error:
        raise InputError(f"the report cannot be written: {error}", "choose another -o") from None
    if as_json:
        print_json({"study": night.study.name, "files": [str(file) for file in files]})
    else:
        click.echo("\n".join(str(file) for file in files))
