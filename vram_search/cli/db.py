"""`vram-search db`: checks, backs up, repairs, moves and exports a database."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_search.answers.lookup import opened
from vram_search.cli.console import confirm, echo
from vram_search.cli.options import (
    NamedPath,
    SuggestingGroup,
    database_option,
    json_option,
    print_json,
)
from vram_search.errors import InputError
from vram_search.resources import expanded
from vram_search.units import counted, format_bytes

if TYPE_CHECKING:
    from vram_search.upkeep.copy import CopyAnswer

FAULTS_FOUND = 1
"""Exit code of a check that finds faults."""


@click.group(
    "db",
    cls=SuggestingGroup,
    short_help="Check, back up, repair, move or export the database.",
)
def command() -> None:
    """Checks, copies, repairs and moves a database and its folder NAME.files beside it.

    \b
    Examples:
      vram-search db check
      vram-search db backup /mnt/nas/search.db
      vram-search db repair --dry-run
      vram-search db move ~/work/search.db
      vram-search db copy search.db postgresql+psycopg://me@server/search
      vram-search db export tables --format csv
    """


@command.command("check", short_help="Look for faults. Changes nothing.")
@database_option
@json_option
def check(database: str | None, as_json: bool) -> None:
    """Checks the file, the values, the folder of files and Optuna's tables.

    It changes nothing, runs beside a search, and works on full and read-only disks. Exit code 1
    means that it found faults.
    """
    from vram_search.upkeep.check import check_database
    from vram_search.upkeep.words import fault_lines, note_lines

    with opened(database) as store:
        found = check_database(store)
    if as_json:
        print_json({**found.as_dict(), "is_whole": found.is_whole})
    else:
        studies = counted(found.studies, "study", "studies")
        trials = counted(found.trials, "trial", "trials")
        echo(f"database {found.database}: {studies}, {trials}, tables of version {found.version}")
        for line in fault_lines(found):
            echo(f"fault: {line}")
        for line in note_lines(found):
            echo(f"note: {line}")
        echo(
            "no faults found"
            if found.is_whole
            else "`vram-search db repair --dry-run` lists repairs"
        )
    sys.exit(0 if found.is_whole else FAULTS_FOUND)


@command.command("backup", short_help="Copy database and files, also while a search runs.")
@click.argument("target", metavar="FILE", type=NamedPath(path_type=Path))
@click.option("--without-files", is_flag=True, help="Leave adapters, exports and logs out.")
@database_option
@json_option
def backup(target: Path, without_files: bool, database: str | None, as_json: bool) -> None:
    """Copies the database to FILE and its files to FILE.files; a search may go on meanwhile."""
    from vram_search.upkeep.copy import back_up

    with opened(database) as store:
        copied = back_up(store, expanded(target).absolute(), with_files=not without_files)
    _tell_copy("copied", copied, as_json=as_json)


@command.command("move", short_help="Move database and files.")
@click.argument("target", metavar="FILE", type=NamedPath(path_type=Path))
@database_option
@json_option
def move(target: Path, database: str | None, as_json: bool) -> None:
    """Moves the database to FILE and its files to FILE.files; no study may run meanwhile."""
    from vram_search.store.location import database_url
    from vram_search.upkeep.copy import move_database

    url = database_url(database)
    with opened(database) as store:
        moved = move_database(store, url, expanded(target).absolute())
    _tell_copy("moved", moved, as_json=as_json)


@command.command("copy", short_help="Copy into an empty database, also of another kind.")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@json_option
def copy(source: str, target: str, as_json: bool) -> None:
    """Copies the record, Optuna's tables and the files: SQLite to PostgreSQL, and back.

    SOURCE and TARGET are SQLite files or URLs. TARGET must hold no study. A search may go on
    meanwhile; later trials are not in the copy.

    \b
    Examples:
      vram-search db copy search.db postgresql+psycopg://me@server/search
    """
    from contextlib import closing

    from vram_search.store import open_store
    from vram_search.store.location import database_url
    from vram_search.upkeep.copy_rows import copy_database

    url = database_url(target)
    with opened(source) as store, closing(open_store(url, create=True)) as new:
        copied = copy_database(store, new, url)
    if as_json:
        print_json(copied.as_dict())
        return
    rows = sum(copied.rows.values())
    files = "" if copied.files is None else f", and its files to {copied.files}"
    echo(f"copied {counted(rows, 'row', 'rows')} of {copied.source} to {copied.target}{files}")


@command.command("repair", short_help="Make everything agree with the record.")
@click.option("--dry-run", is_flag=True, help="List the steps; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@database_option
@json_option
def repair(dry_run: bool, yes: bool, database: str | None, as_json: bool) -> None:
    """Writes Optuna's tables again, removes leftovers of killed trainings, forgets lost adapters.

    The record counts: no trial is deleted or changed. Points that `try` added are kept if Optuna's
    tables can still be read.
    """
    from vram_search.store.location import database_url
    from vram_search.upkeep.repair import repair_database

    with opened(database) as store:
        url = database_url(database)
        answer = repair_database(store, url, dry_run=True)
        if not as_json:
            echo("\n".join([f"step: {words}" for words in answer.steps] or ["nothing to repair"]))
        if answer.steps and not dry_run:
            if not yes and (as_json or not confirm("repair?")):
                raise InputError("nothing was changed", "answer y, or add --yes")
            answer = repair_database(store, url, dry_run=False)
            if not as_json:
                echo("repaired")
    if as_json:
        print_json(answer.as_dict())
        return
    for line in answer.remaining:
        echo(f"remains: {line}")


@command.command("export", short_help="Write all tables to files.")
@click.argument("folder", metavar="FOLDER", type=NamedPath(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON lines or CSV.",
)
@database_option
@json_option
def export(folder: Path, form: str, database: str | None, as_json: bool) -> None:
    """Writes each table, Optuna's too, to one file of FOLDER. Passwords are masked."""
    from vram_search.upkeep.export_tables import export_tables

    with opened(database) as store:
        written = export_tables(store, expanded(folder), "csv" if form == "csv" else "jsonl")
    if as_json:
        print_json(written.as_dict())
        return
    for table, rows in written.rows.items():
        echo(f"{rows:>8}  {table}.{form}")
    echo(f"written to {written.folder}")


def _tell_copy(verb: str, copied: CopyAnswer, *, as_json: bool) -> None:
    if as_json:
        print_json(copied.as_dict())
        return
    files = "" if copied.files is None else f" with its files ({format_bytes(copied.size_bytes)})"
    echo(f"{verb} {copied.source} to {copied.target}{files}")
    if verb == "moved":
        echo(f"use it with --database {copied.target}, or set VRAM_SEARCH_DATABASE")
