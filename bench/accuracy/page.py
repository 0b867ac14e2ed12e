"""Writes the scoreboard as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median

from bench.accuracy.rows import MISS, Row

TITLES = {
    "allocated_mib": "allocated MiB",
    "reserved_mib": "reserved MiB",
    "process_mib": "process MiB",
    "longest_tokens": "longest text, tokens",
}
HEAD = """# Accuracy on trainings that others measured

Written by `python -m bench.accuracy` from [its rows](../bench/accuracy/rows.jsonl); `--check`
compares only. Nobody here measured these trainings, and no formula was fitted to them. Each
training links its source. Errors are predicted / measured - 1. Our own measurements on an H200
are in [experiments.md](experiments.md).

The figure that counts is what the card must have: process bytes where they were measured, else
reserved, else allocated. An error of more than 10 % is a miss; every miss is listed with its
reason at the end.
"""


def page(rows: Sequence[Row]) -> str:
    """Returns the whole page."""
    groups = [(name, list(members)) for name, members in groupby(rows, lambda row: row.group)]
    parts = [HEAD, _summary(groups)]
    parts += [f"## {name}\n\n{_table(members)}" for name, members in groups]
    parts.append(_misses(rows))
    return "\n".join(parts)


def _summary(groups: Sequence[tuple[str, Sequence[Row]]]) -> str:
    lines = [
        "| source | rows | within 10 % | median error | largest error | others: median, largest |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, rows in groups:
        errors = headline_errors(rows)
        within = sum(abs(error) <= MISS for error in errors)
        cells = [name, str(len(rows)), str(within), *_spread(errors), _others(rows)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def headline_errors(rows: Iterable[Row]) -> list[float]:
    """Returns our errors of the figure that counts."""
    found = (row.error(row.headline) for row in rows)
    return [error for error in found if error is not None]


def _spread(errors: Sequence[float]) -> tuple[str, str]:
    """Median of the errors' sizes and the largest one."""
    return f"{median(map(abs, errors)):.1%}", f"{max(errors, key=abs):+.1%}"


def _others(rows: Sequence[Row]) -> str:
    tools = dict.fromkeys(tool for row in rows for tool in row.others)
    words = []
    for tool in tools:
        errors = [
            error
            for row in rows
            if row.headline in row.others.get(tool, {})
            and (error := row.error(row.headline, row.others[tool][row.headline])) is not None
        ]
        words.append(f"{tool} {', '.join(_spread(errors))}")
    return "; ".join(words) or "-"


def _table(rows: Sequence[Row]) -> str:
    names = [name for name in TITLES if any(name in row.measured for row in rows)]
    tools = list(dict.fromkeys(tool for row in rows for tool in row.others))
    heads = ["training"]
    for name in names:
        heads += [TITLES[name], "predicted"]
        heads += [tool for tool in tools if any(name in row.others.get(tool, {}) for row in rows)]
    lines = [f"| {' | '.join(heads)} |", f"| --- {'| ---: ' * (len(heads) - 1)}|"]
    for row in rows:
        cells = [f"[{row.what}]({row.source})"]
        for name in names:
            cells += [_measured(row, name), _predicted(row, name, row.predicted.get(name))]
            cells += [
                _predicted(row, name, row.others.get(tool, {}).get(name))
                for tool in tools
                if any(name in one.others.get(tool, {}) for one in rows)
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _measured(row: Row, name: str) -> str:
    value = row.measured.get(name)
    if value == 0:
        return "out of memory"
    return "" if value is None else f"{value:,}"


def _predicted(row: Row, name: str, value: float | None) -> str:
    if value is None or name not in row.measured:
        return ""
    if value == 0:
        return "does not fit"
    error = row.error(name, value)
    return f"{value:,.0f}" if error is None else f"{value:,.0f} ({error:+.1%})"


def _misses(rows: Iterable[Row]) -> str:
    lines = ["## Misses, one by one", ""]
    for row in misses(rows):
        error = row.error(row.headline)
        size = "fits here, not there" if error is None else f"{error:+.1%}"
        lines.append(f"- **{row.what}** ({row.group}): {size}; {row.why}.")
    return "\n".join(lines) + "\n"


def misses(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows whose figure that counts is missed."""
    errors = ((row, row.error(row.headline)) for row in rows)
    return [row for row, error in errors if error is None or abs(error) > MISS]
