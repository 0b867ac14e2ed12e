"""The layout of a table's text: what stands between its columns, and Markdown."""

from __future__ import annotations

import re

EXCEL_MARK = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)
"""The first line of a table for Excel names what stands between its columns."""
_MARKS = ",;\t|"
_BOLD = re.compile(r"^(\*\*|__|`|\*|_)(.*)\1$")


def mark_of(header: str) -> str:
    """The sign between the columns of a header: the one that it has most of, else a comma."""
    return max(_MARKS, key=lambda mark: (header.count(mark), mark == ","))


def markdown_table(text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of a text's first Markdown table, the header first; empty for none."""
    lines = text.split("\n")
    rule = next((n for n, line in enumerate(lines) if n and _is_rule(line)), None)
    if rule is None or "|" not in lines[rule - 1]:
        return []
    below = [(n, line) for n, line in enumerate(lines[rule + 1 :], rule + 2)]
    end = next((i for i, (_, line) in enumerate(below) if "|" not in line), len(below))
    return [(n, _cells(line)) for n, line in [(rule, lines[rule - 1]), *below[:end]]]


def _is_rule(line: str) -> bool:
    """True for the line under the header: | --- | ---: |"""
    return "|" in line and "--" in line and not line.strip("|:- \t\r")


def _cells(line: str) -> list[str]:
    plain = line.strip().removeprefix("|").removesuffix("|")
    return [_BOLD.sub(r"\2", cell.strip()) for cell in plain.split("|")]
