"""Rows of a file: JSON, JSON lines, CSV, TSV, text lines, Parquet or Arrow, packed or not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from vram_search.data.columns import is_message, knows_fields
from vram_search.data.csv_rows import is_table, read_csv
from vram_search.data.unpack import EXTRA, unpacked
from vram_search.data.unreadable import Unreadable
from vram_search.errors import InputError, reason_of
from vram_search.parsing.encoding import decoded
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.spec.dataset import PACKED, SUFFIXES
from vram_search.tools.file_kinds import naming_other_files

_BINARY = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
"""First bytes of a file -> its kind; the last is an Arrow stream's, as `datasets` writes it."""


KINDS_REMEDY = f"a data set is a file of the kinds {', '.join(SUFFIXES)}"


def read_file(path: Path) -> list[Any]:
    """The file's rows; a broken line of JSON lines becomes an Unreadable.

    The contents decide between JSON and JSON lines, and the suffix between other kinds.

    Raises:
        InputError: the file cannot be read, or its kind is not known.
    """
    with naming_other_files(path, "rows"):
        return _read_file(path)


def _read_file(path: Path) -> list[Any]:
    data, name = unpacked(path)
    kind = next((kind for start, kind in _BINARY.items() if data.startswith(start)), "")
    if kind or name.endswith((".parquet", ".arrow", ".feather")):
        return _read_table(path, data, kind or "arrow")
    text = _decoded(path, data)
    if name.endswith((".csv", ".tsv")):
        return _read_csv(path, text, "\t" if name.endswith(".tsv") else None)
    if name.endswith(".txt") and not text.lstrip().startswith(("{", "[{")):
        if is_table(text):
            return _read_csv(path, text, None)
        return [{"text": line} for line in _lines_of(text) if line.strip()]
    return _read_json(path, text, is_lines=name.endswith((".jsonl", ".ndjson")))


def _decoded(path: Path, data: bytes) -> str:
    try:
        return decoded(data)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 (byte {error.start})",
            "save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW "
            "(GB18030 for Chinese, CP932 for Japanese); files "
            f"are {', '.join(SUFFIXES)}, packed or not ({', '.join(PACKED)})",
        ) from None


def _read_json(path: Path, text: str, *, is_lines: bool) -> list[Any]:
    start = text.lstrip()
    if not start:
        return []
    if not is_lines and not start.startswith(("[", "{")):
        raise InputError(f"{path}: not JSON", KINDS_REMEDY)
    if is_lines and start.split("\n", 1)[0].strip() == "{":
        raise InputError(
            f"{path}: its objects go over several lines",
            "write one object per line, for example: jq -c . OLD > NEW",
        )
    if not is_lines or start.startswith("["):
        try:
            return _as_rows(path, parse_json(text, half_pairs="keep"))
        except ParseError as error:
            lines = _read_lines(text)
            if not is_lines and all(isinstance(line, Unreadable) for line in lines[:2]):
                raise InputError(
                    f"{path}: not JSON ({error})", "correct the file, or write one object per line"
                ) from None
            return lines
    return _read_lines(text)


def _as_rows(path: Path, value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    raise InputError(
        f"{path}: a JSON data set is a list of rows; this is one object", _rows_of_object(value)
    )


def _rows_of_object(value: dict[str, Any]) -> str:
    """Says how an object becomes a list of rows."""
    lists = [key for key, rows in value.items() if isinstance(rows, list) and rows]
    named = [key for key in lists if isinstance(value[key][0], (dict, list))]
    if any(is_message(value[key][0]) for key in named):
        return "put the row in brackets: [{...}]"
    if named:
        rows = max(named, key=lambda key: len(value[key]))
        return f"its rows seem to stand under the key {rows!r}: write that list alone"
    has_columns = all(isinstance(cells, (dict, list)) for cells in value.values())
    sizes = {len(value[key]) for key in lists}
    if (
        len(value) > 1
        and has_columns
        and (knows_fields(value) or (len(lists) == len(value) and len(sizes) == 1))
    ):
        return (
            "it holds a list for each column: write one object for each row, in pandas with "
            "to_json(FILE, orient='records')"
        )
    if len(value) > 1 and all(isinstance(row, dict) for row in value.values()):
        return "if its values are the rows, write them as a list"
    return "put rows in brackets: [{...}, {...}]"


def _lines_of(text: str) -> list[str]:
    """Lines by line breaks of all systems alone: a text may hold U+2028 and its like."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _read_lines(text: str) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(_lines_of(text), start=1):
        if not line.strip():
            continue
        try:
            rows.append(parse_json(line, half_pairs="keep"))
        except ParseError as error:
            rows.append(Unreadable(f"line {number} {_why_no_json(line.strip(), error)}"))
    return rows


def _why_no_json(line: str, error: ParseError) -> str:
    if line.endswith("},"):
        return "is not JSON: it ends with a comma; write one object a line and nothing else"
    if line.startswith("{'"):
        return "is not JSON, but an object as Python prints it: write it with json.dumps"
    return f"is not JSON ({error})"


def _read_csv(path: Path, text: str, delimiter: str | None) -> list[Any]:
    try:
        return read_csv(text, delimiter)
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from None


def _read_table(path: Path, data: bytes, kind: str) -> list[Any]:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise InputError(f"{path}: reading this kind of file needs pyarrow", EXTRA) from None
    source = pyarrow.BufferReader(data)
    try:
        if kind == "parquet":
            table = parquet.read_table(source)
        elif data.startswith(b"ARROW1"):
            table = ipc.open_file(source).read_all()
        else:
            table = ipc.open_stream(source).read_all()
    except pyarrow.ArrowException as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
    rows: list[Any] = table.to_pylist()
    return rows
