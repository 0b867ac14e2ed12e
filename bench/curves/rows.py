"""Files of rows: JSON lines, appended as each run ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.curves.runs import Key, Run
from vram_search.errors import InputError

Row = dict[str, Any]


def read_rows(file: Path) -> list[Row]:
    """The whole rows of a file; the last line may be cut off, where its writer was ended.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"task", "config", "seed"} <= set(row):
            raise InputError(f"{file}, line {number}: no row of this bench")
    return rows


def row_key(row: Row) -> Key:
    return row["task"], row["config"], row["seed"]


def append(file: Path, row: Row) -> None:
    """One write, so that whoever ends this process leaves whole lines."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def check(rows: Iterable[Row], runs: Sequence[Run]) -> None:
    """That earlier rows were made by these runs, where they have the name of one.

    Raises:
        InputError: a row has other hyperparameters or steps.
    """
    expected = {run.key: run.labels for run in runs}
    for row in rows:
        for name, value in expected.get(row_key(row), {}).items():
            if row.get(name) != value:
                raise InputError(
                    f"{row['task']} {row['config']}: an earlier row has {name} {row.get(name)!r}, "
                    f"this bench {value!r}",
                    "the studies or their rows have changed since: begin a new table",
                )


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first row of each run."""
    found: dict[Key, Row] = {}
    for row in rows:
        found.setdefault(row_key(row), row)
    return list(found.values())


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """The file is the old one or the new one, never half of one."""
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fresh.replace(file)
