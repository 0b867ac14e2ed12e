"""--csv: rows under a header, for a spreadsheet or a data frame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from vram_search.cli.console import echo
from vram_search.errors import InputError

F = TypeVar("F", bound=Callable[..., Any])


def csv_option(function: F) -> F:
    return click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")(function)


def refuse_both(as_json: bool, as_csv: bool) -> None:
    """Refuses --json together with --csv.

    Raises:
        InputError: both forms are asked for.
    """
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other")


def print_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A header and one line per row: floats in full, true and false, nothing where unknown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in columns])
    echo(text.getvalue(), nl=False)


def print_figures(figures: Mapping[str, Any]) -> None:
    """A row a figure: a mapping's are named `outer.inner`, a list is JSON."""
    print_csv(("figure", "value"), ({"figure": n, "value": v} for n, v in _flat(figures)))


def _flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", v) for inner, v in _flat(value))
        elif isinstance(value, list):
            yield name, json.dumps(value, ensure_ascii=False)
        else:
            yield name, value


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
