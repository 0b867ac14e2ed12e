"""Reads the logs of a study's runs, also while a run writes them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

POLL_SECONDS = 0.5
_LONGEST_LINE = 100_000
Entry = dict[str, Any]
"""One entry: `at` (ISO 8601), `event`, `text`, and further numbers and names."""


def log_files(folder: Path) -> list[Path]:
    """The structured logs of a study's runs, oldest first."""
    return sorted(folder.glob("*.jsonl")) if folder.is_dir() else []


def entries_of(files: list[Path]) -> Iterator[Entry]:
    """The entries of logs; damaged lines are left out.

    Raises:
        OSError: a file cannot be read.
    """
    for file in files:
        with file.open(encoding="utf-8", errors="replace") as stream:
            yield from _whole_entries(stream)


def follow(folder: Path, files: list[Path]) -> Iterator[Entry]:
    """The entries of logs, then those that are written from now on, also by later runs. It ends
    only with its caller.

    Raises:
        OSError: a file cannot be read.
    """
    yield from entries_of(files[:-1])
    waiting = files[-1:]
    while True:
        while not waiting:
            time.sleep(POLL_SECONDS)
            waiting = [file for file in log_files(folder) if file not in files]
        files = [*files, *waiting]
        with waiting[0].open(encoding="utf-8", errors="replace") as stream:
            while True:
                yield from _whole_entries(stream)
                if newer := [file for file in log_files(folder) if file > waiting[0]]:
                    yield from _whole_entries(stream)
                    waiting = newer
                    break
                time.sleep(POLL_SECONDS)


def _whole_entries(stream: TextIO) -> Iterator[Entry]:
    """The entries up to the end of the file; a line without its end is left for later."""
    while True:
        start = stream.tell()
        line = stream.readline(_LONGEST_LINE)
        if not line.endswith("\n"):
            if len(line) < _LONGEST_LINE:
                stream.seek(start)
                return
            continue  # no line of ours is that long
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and isinstance(entry.get("text"), str):
            yield entry
