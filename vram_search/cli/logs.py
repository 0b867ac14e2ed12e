"""`vram-search logs`: what a run did, line by line, also while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import click

from vram_search.answers.lookup import find_study, opened
from vram_search.cli.console import echo
from vram_search.cli.options import database_option, json_option, json_text, study_option
from vram_search.errors import NotFoundError
from vram_search.store.location import StudyFolder
from vram_search.store.run_logs import Entry, entries_of, follow, log_files


@click.command("logs", short_help="The log of the latest run, or of one trial.")
@click.argument("trial", metavar="[N]", type=click.IntRange(min=0), required=False)
@click.option("--follow", "is_followed", is_flag=True, help="Wait for more lines; Ctrl-C ends it.")
@study_option
@database_option
@json_option
def command(
    trial: int | None,
    is_followed: bool,
    study: str | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Prints the log of the study's latest run; with N all that happened to trial N, in any run.

    With --json each line is one JSON object. Logs hold no passwords and no rows of data.

    \b
    Examples:
      vram-search logs
      vram-search logs 7
      vram-search logs --follow
      vram-search logs --json
    """
    with opened(database) as store:
        record = find_study(store, study)
        folder = StudyFolder(store.files, record.name).logs
    files = log_files(folder)
    if not files:
        raise NotFoundError(f"study {record.name} has no logs", f"they would be in {folder}")
    shown = files if trial is not None else files[-1:]
    if not is_followed:
        _print(entries_of(shown), trial, as_json=as_json)
        return
    try:
        _print(follow(folder, shown), trial, as_json=as_json)
    except KeyboardInterrupt:
        return


def _print(entries: Iterable[Entry], trial: int | None, *, as_json: bool) -> None:
    is_empty = True
    for entry in entries:
        if trial is None or entry.get("trial") == trial:
            is_empty = False
            echo(json_text(entry) if as_json else f"{_time_of(entry)} {entry['text']}")
    if is_empty and trial is not None:
        raise NotFoundError(f"the logs hold nothing of trial {trial}")


def _time_of(entry: Entry) -> str:
    """The local time of day of an entry, with its date: a search may last several nights."""
    try:
        return datetime.fromisoformat(str(entry.get("at"))).strftime("%m-%d %H:%M:%S")
    except ValueError:
        return "-"
