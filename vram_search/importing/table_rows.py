"""The header and the rows of a table of runs: CSV, a spreadsheet's table, or Markdown."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from vram_search.errors import InputError
from vram_search.importing.cell_numbers import has_decimal_commas, with_point
from vram_search.importing.files import read_text
from vram_search.parsing.table_text import EXCEL_MARK, mark_of, markdown_table

Cells = dict[str, str]
_MAX_FILE_LINES = 100_000


def table_rows(path: Path) -> tuple[list[str], list[tuple[int, Cells]]]:
    """The header, and line number and filled cells of every row.

    A title above the header and empty lines are left out. A number may have a decimal comma.

    Raises:
        InputError: the file cannot be read, or a row has more cells than the header.
    """
    text = read_text(path)
    if text.lstrip().startswith(("[", "{")):
        raise InputError(f"{path}: holds JSON, no table", "write the runs as CSV, one run per row")
    lines, mark = markdown_table(text), "|"
    if not lines:
        lines, mark = _csv_lines(path, text)
    begin = next((at for at, (_, cells) in enumerate(lines) if _filled(cells) > 1), 0)
    header = lines[begin][1] if lines else []
    below = lines[begin + 1 :]
    has_commas = mark in ";\t" or has_decimal_commas(cell for _, cells in below for cell in cells)
    rows = []
    for number, cells in below:
        if _filled(cells[len(header) :]):
            raise InputError(
                f"{path}, line {number}: {len(cells)} cells for {len(header)} columns",
                'put a text that holds commas in "quotes"',
            )
        filled = {
            name: with_point(cell) if has_commas else cell
            for name, cell in zip(header, cells, strict=False)
            if cell
        }
        if filled:
            rows.append((number, filled))
    return header, rows


def _filled(cells: list[str]) -> int:
    return sum(map(bool, cells))


def _csv_lines(path: Path, text: str) -> tuple[list[tuple[int, list[str]]], str]:
    """Line numbers and cells, and the sign between the cells."""
    named = EXCEL_MARK.match(text)
    body = text[named.end() :] if named else text
    mark = named[1] if named else mark_of(_first_row(body))
    above = 1 if named else 0
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=mark, strict=True)
    lines = []
    try:
        for cells in reader:
            if reader.line_num > _MAX_FILE_LINES:
                raise InputError(
                    f"{path}: more than {_MAX_FILE_LINES} lines", "split it into several files"
                )
            lines.append((above + reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {above + reader.line_num}: not valid CSV: {error}", "correct the line"
        ) from None
    return lines, mark


def _first_row(text: str) -> str:
    """The first line that has several cells, however they are parted."""
    lines = text.split("\n", 20)
    return next((line for line in lines if any(mark in line for mark in ",;\t|")), "")
