"""The layout of a table's text: what stands between its columns, and Markdown."""

from __future__ import annotations

import re
from itertools import takewhile

EXCEL_MARK = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
"""The first line of a table for Excel names what stands between its columns."""
_MARKS = ",;\t|"
_BOLD = re.compile(r"^(\*\*|__|`|\*|_)(.*)\1$")


def mark_of(header: str) -> str:
    """The sign between the columns of a header: the one that it has most of, else a comma."""
    return max(_MARKS, key=lambda mark: (header.count(mark), mark == ","))


def markdown_table(text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of a text's widest Markdown table, the header first; empty for none."""
    lines = text.split("\n")
    rules = [n for n, line in enumerate(lines) if n and _is_rule(line) and "|" in lines[n - 1]]
    tables = [_table_at(lines, rule) for rule in rules]
    return max(tables, key=lambda table: len(table[0][1]), default=[])


def _table_at(lines: list[str], rule: int) -> list[tuple[int, list[str]]]:
    """The table whose header stands above the line of dashes."""
    below = list(takewhile(lambda n: "|" in lines[n], range(rule + 1, len(lines))))
    return [(n + 1, _cells(lines[n])) for n in (rule - 1, *below)]


def _is_rule(line: str) -> bool:
    """True for the line under the header: | --- | ---: |"""
    return "|" in line and "--" in line and not line.strip("|:- \t\r")


def _cells(line: str) -> list[str]:
    plain = line.strip().removeprefix("|").removesuffix("|")
    return [_BOLD.sub(r"\2", cell.strip()) for cell in plain.split("|")]
