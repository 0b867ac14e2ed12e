"""Copies a database row by row into an empty one of another kind: SQLite to PostgreSQL and back."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from vram_search.answers.base import Answer
from vram_search.errors import InputError, StoreError
from vram_search.search import open_storage
from vram_search.store import Store
from vram_search.store.database import optuna_tables, reading, writing
from vram_search.store.faults import describe
from vram_search.store.tables import metadata, studies
from vram_search.upkeep.copy import copy_files, writing_errors

_ROWS = 500
"""Rows that are in memory at a time: a trial takes about 100 KB."""
_OPTUNAS_OWN = ("alembic_version", "version_info")
"""Optuna writes these when it makes its tables."""


class CopiedDatabase(Answer):
    """A database that was copied."""

    source: str
    target: str
    rows: dict[str, int] = Field(description="Rows by table.")
    files: str | None = Field(description="Folder of its files there; null: there are none.")


def copy_database(source: Store, target: Store, target_url: str) -> CopiedDatabase:
    """Copies the record, Optuna's tables and the folder of files.

    The record is copied as one state in one transaction, so a search may go on meanwhile; what it
    writes later is not in the copy. If the files cannot be copied, the target stays empty.

    Args:
        target: a database without rows.

    Raises:
        InputError: the target holds rows, or its folder of files exists.
        StoreError: a value in the source is damaged, or a database cannot be used.
        VramSearchError: the target's folder of files cannot be written.
    """
    _refuse_rows(target)
    files = target.files
    if source.files.is_dir() and files.exists() and any(files.iterdir()):
        raise InputError(f"{files} exists already", "move it away, or name another database")
    rows: dict[str, int] = {}
    with reading(source.engine) as old:
        theirs = optuna_tables(set(inspect(old).get_table_names())) - set(_OPTUNAS_OWN)
        if theirs:
            with open_storage(target_url):  # makes Optuna's tables there
                pass
        with writing(target.engine) as new:
            for table in metadata.sorted_tables:
                rows[table.name] = _copy_table(old, new, table, table)
            if theirs:
                rows |= _copy_optunas(old, new, theirs)
            with writing_errors(files):
                copied = copy_files(source.files, files)
    return CopiedDatabase(
        source=describe(source.engine.url),
        target=describe(target.engine.url),
        rows=rows,
        files=None if copied is None else str(copied),
    )


def _refuse_rows(target: Store) -> None:
    """Refuses a target database that holds anything.

    Raises:
        InputError: the target is in use: it holds studies, or a queue.
    """
    with reading(target.engine) as connection:
        for table in (studies, *metadata.sorted_tables):
            if connection.execute(select(table).limit(1)).first() is not None:
                what = "studies" if table is studies else f"rows in {table.name}"
                name = describe(target.engine.url)
                raise InputError(f"database {name} holds {what} already", "name an empty database")


def _copy_optunas(old: Connection, new: Connection, names: Iterable[str]) -> dict[str, int]:
    """Copies Optuna's tables, as far as both versions of Optuna have the same columns."""
    before, after = MetaData(), MetaData()
    before.reflect(old, only=sorted(names))
    after.reflect(new, only=sorted(names))
    return {
        table.name: _copy_table(old, new, before.tables[table.name], table)
        for table in after.sorted_tables
    }


def _copy_table(old: Connection, new: Connection, source: Table, target: Table) -> int:
    columns = [column for column in source.c if column.name in target.c]
    count = 0
    try:
        result = old.execution_options(yield_per=_ROWS).execute(select(*columns))
        for part in result.mappings().partitions(_ROWS):
            new.execute(insert(target), [dict(row) for row in part])
            count += len(part)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"table {source.name} of the source holds a damaged value", "vram-search db check"
        ) from error
    _continue_numbering(new, target)
    return count


def _continue_numbering(connection: Connection, table: Table) -> None:
    """PostgreSQL counts ids by a sequence, which rows with an id of their own do not move."""
    keys: list[Column[object]] = list(table.primary_key.columns)
    if connection.dialect.name != "postgresql" or len(keys) != 1:
        return
    key = keys[0]
    if not isinstance(key.type, Integer) or key.foreign_keys:
        return
    name = connection.dialect.identifier_preparer.quote(table.name)
    sequence = func.pg_get_serial_sequence(name, key.name)
    if connection.scalar(select(sequence)) is None:
        return
    last = connection.scalar(select(func.max(key)))
    connection.execute(
        text("SELECT setval(pg_get_serial_sequence(:name, :key), :last, :used)"),
        {"name": name, "key": key.name, "last": last or 1, "used": last is not None},
    )
