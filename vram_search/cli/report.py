"""`vram-search report`: the night as one HTML file, and its charts as SVG or PNG."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.answers.lookup import find_study, opened
from vram_search.cli.console import echo
from vram_search.cli.options import NamedPath, database_option, json_option, print_json
from vram_search.errors import InputError, reason_of
from vram_search.resources import replace_text

if TYPE_CHECKING:
    from vram_search.report.page.html import PlotFormat


@click.command("report", short_help="Write the results as one HTML file.")
@click.argument("study", required=False)
@click.option("--study", "named", metavar="NAME", help="STUDY, as the other commands take it.")
@click.option(
    "-o",
    "--output",
    type=NamedPath(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="File to write; an existing one is replaced.",
)
@click.option(
    "--plots",
    metavar="FOLDER",
    type=NamedPath(path_type=Path, file_okay=False),
    help="Write every chart as a file too.",
)
@click.option(
    "--plot-format",
    type=click.Choice(["svg", "png"]),
    help="Of the charts' files; default: svg. PNG needs the packages resvg-py and font-lato.",
)
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@database_option
@json_option
def command(
    study: str | None,
    named: str | None,
    output: Path,
    plots: Path | None,
    plot_format: PlotFormat | None,
    opens: bool,
    database: str | None,
    as_json: bool,
) -> None:
    """Writes what STUDY found (default: the latest) as one HTML file that needs no network.

    \b
    Examples:
      vram-search report --open
      vram-search report td-010 -o morning.html --plots docs/plots
      vram-search report --plots plots --plot-format png
    """
    if plot_format and plots is None:
        raise InputError("--plot-format says how, not where", "add --plots FOLDER")
    if study and named and study != named:
        raise InputError(f"two studies are named: {study} and {named}", "a report is of one")
    from vram_search.report.page.html import render, write_plots
    from vram_search.report.page.report_data import load_report_data

    with opened(database) as store:
        night = load_report_data(store, find_study(store, study or named))
    try:
        drawn = write_plots(night, plots, plot_format or "svg") if plots else []
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, render(night, datetime.now(UTC)))
    except OSError as error:
        raise InputError(
            f"the report {output} cannot be written: {reason_of(error)}",
            "choose another folder, on a disk with room",
        ) from None
    files = [output, *drawn]
    if as_json:
        print_json({"study": night.study.name, "files": [str(file) for file in files]})
    else:
        echo("\n".join(str(file) for file in files))
    if opens and click.launch(str(output.resolve())) != 0:
        raise InputError("no browser could be opened", f"open {output.resolve()} yourself")
