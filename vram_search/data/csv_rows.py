"""Rows of a table: CSV, TSV, or with semicolons as a spreadsheet writes it."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from typing import Any, Literal

from vram_search.data.columns import knows_fields
from vram_search.data.unreadable import Unreadable
from vram_search.parsing.table_text import EXCEL_MARK, mark_of

_NO_END, _AFTER_QUOTE = "unexpected end of data", "expected after"
"""Parts of the csv module's messages."""


def is_table(text: str) -> bool:
    """True if a text begins with a header of at least two columns, of which known fields are some:
    Excel saves "Unicode text" as .txt."""
    header = text.lstrip("\r\n").split("\n", 1)[0].strip()
    names = [name.strip().strip('"') for name in header.split(mark_of(header))]
    return len(names) > 1 and knows_fields(names)


def read_csv(text: str, delimiter: str | None) -> list[Any]:
    """A mapping for each row; a row that does not fit the header becomes an Unreadable.

    Empty lines and rows without any text are left out; a missing cell is None. Quotes are a part
    of the text in a table with tabs that cannot be read otherwise.

    Args:
        delimiter: None takes what the header has most of.

    Raises:
        csv.Error: the header cannot be read, or a quoted text does not end.
    """
    if named := EXCEL_MARK.match(text):
        delimiter, text = named[1], text[named.end() :]
    body = text.lstrip("\r\n")
    above = text[: len(text) - len(body)].count("\n") + (1 if named else 0)
    mark = delimiter or mark_of(body.split("\n", 1)[0])
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        if mark == "\t":
            with contextlib.suppress(csv.Error):
                rows = _read(body, mark, above, csv.QUOTE_MINIMAL)
                if not any(isinstance(row, Unreadable) for row in rows):
                    return rows
            rows = _read(body, mark, above, csv.QUOTE_NONE)
            if not any(isinstance(row, Unreadable) for row in rows):
                return rows
        return _read(body, mark, above, csv.QUOTE_MINIMAL)
    finally:
        csv.field_size_limit(limit)  # it holds for every reader of the process


def _read(body: str, mark: str, above: int, quoting: Literal[0, 3]) -> list[Any]:
    """
    Args:
        above: lines above the header.
        quoting: of the csv module: QUOTE_MINIMAL or QUOTE_NONE.
    """
    reader = csv.reader(
        io.StringIO(body, newline=""),
        delimiter=mark,
        strict=True,
        quoting=quoting,
        skipinitialspace=f'{mark} "' in body.split("\n", 1)[0],
    )
    header = next(reader, [])
    rows: list[Any] = []
    while True:
        line = above + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            why = _why(error, line)
            lines = above + reader.line_num + 1 - line  # rows that a missing quote took in
            rows += [Unreadable(f"line {line} {why}")] * max(lines, 1)
            continue
        if any(cell.strip() for cell in cells):
            rows.append(_row(header, cells, line, mark))


def _row(header: list[str], cells: list[str], line: int, mark: str) -> Any:
    if any(cell.strip() for cell in cells[len(header) :]):
        columns = "column" if len(header) == 1 else "columns"
        return Unreadable(
            f"line {line} has {len(cells)} cells for {len(header)} {columns}: put a text that "
            f'holds {mark!r} in "quotes"'
        )
    return dict.fromkeys(header) | dict(zip(header, cells, strict=False))


def _why(error: csv.Error, line: int) -> str:
    said = str(error)
    if _NO_END in said:
        raise csv.Error(f"line {line} begins a quoted text that does not end") from None
    if _AFTER_QUOTE in said:
        return 'has text after a closing quote: write "" for a quote inside a text'
    return f"is not CSV ({said})"
