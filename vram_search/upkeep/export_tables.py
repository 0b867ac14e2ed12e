"""Writes every table of a database as JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import inspect, text

from vram_search.answers.base import Answer
from vram_search.errors import InputError, VramSearchError, reason_of
from vram_search.shown_text import without_secrets_in
from vram_search.store import Store
from vram_search.store.column_types import FiniteJson
from vram_search.store.database import reading
from vram_search.store.faults import describe
from vram_search.store.tables import metadata

Form = Literal["jsonl", "csv"]
_ROWS = 1000
"""Rows that are in memory at a time."""


class ExportedTables(Answer):
    """Tables of a database that were written to a folder."""

    database: str
    folder: str
    rows: dict[str, int] = Field(description="Rows by table; each is the file TABLE.jsonl or .csv.")


def export_tables(store: Store, folder: Path, form: Form) -> ExportedTables:
    """Writes all tables, ours and Optuna's, to files of a new or empty folder.

    Values that are JSON in the database are JSON in JSON lines; values that cannot be read are
    written as the text that is stored. Passwords and tokens are masked.

    Raises:
        InputError: the folder holds files.
        StoreError: the database cannot be read.
        VramSearchError: the folder cannot be written; nothing is left in it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder", "name a new one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows = _write_tables(store, folder, form)
    except OSError as error:
        for file in folder.glob(f"*.{form}"):  # all of them are ours
            file.unlink(missing_ok=True)
        raise VramSearchError(
            f"{folder} cannot be written: {reason_of(error)}",
            "check its permissions and the free space there",
        ) from None
    return ExportedTables(database=describe(store.engine.url), folder=str(folder), rows=rows)


def _write_tables(store: Store, folder: Path, form: Form) -> dict[str, int]:
    rows: dict[str, int] = {}
    with reading(store.engine) as connection:
        for table in sorted(inspect(connection).get_table_names()):
            result = connection.execute(
                text(f'SELECT * FROM "{table}"').execution_options(yield_per=_ROWS)
            )
            columns = list(result.keys())
            as_json = _json_columns(table)
            values = (_row(columns, row, as_json) for row in result)
            rows[table] = _WRITERS[form](folder / f"{table}.{form}", columns, values)
    return rows


def _json_columns(table: str) -> set[str]:
    known = metadata.tables.get(table)
    if known is None:
        return set()
    return {column.name for column in known.c if isinstance(column.type, FiniteJson)}


def _row(columns: list[str], row: Iterable[Any], as_json: set[str]) -> dict[str, Any]:
    values = {}
    for name, value in zip(columns, row, strict=True):
        if isinstance(value, bytes):
            value = value.decode("utf-8", errors="replace")
        if name in as_json and isinstance(value, str):
            value = _parsed(value)
        values[name] = without_secrets_in(value)
    return values


def _parsed(stored: str) -> Any:
    """The value of a JSON text; the text if it is damaged."""
    try:
        return json.loads(stored)
    except (ValueError, RecursionError):
        return stored


def _write_jsonl(file: Path, columns: list[str], rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    with file.open("x", encoding="utf-8", errors="replace", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
            count += 1
    return count


def _write_csv(file: Path, columns: list[str], rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    with file.open("x", encoding="utf-8", errors="replace", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})
            count += 1
    return count


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


_WRITERS: dict[Form, Callable[[Path, list[str], Iterator[dict[str, Any]]], int]] = {
    "jsonl": _write_jsonl,
    "csv": _write_csv,
}
