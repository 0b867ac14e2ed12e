"""Runs made elsewhere, wherever a path leads: a table, a run's folder, or a folder of them."""

from __future__ import annotations

from pathlib import Path

from vram_search.errors import InputError
from vram_search.importing.files import unreadable
from vram_search.importing.folder import MARKS, is_run, load_run
from vram_search.importing.table import load_table
from vram_search.store import ImportedTrial


def load_runs(path: Path) -> list[ImportedTrial]:
    """All runs of a CSV file, of a run's folder, or of the folders inside a folder.

    Raises:
        InputError: there is none, or one of them is malformed: then nothing is imported.
    """
    try:
        if path.is_file():
            return load_table(path)
        runs = [path] if is_run(path) else [inner for inner in _folders(path) if is_run(inner)]
        tables = [] if runs else sorted(path.glob("*.csv"))
    except OSError as error:
        raise unreadable(path, error) from None
    found = [load_run(run) for run in runs]
    for table in tables:
        found += load_table(table)
    if not found:
        raise InputError(
            f"{path}: holds no run",
            f"name a CSV file, or a folder with one of {', '.join(MARKS)}, or one of such folders",
        )
    return found


def _folders(path: Path) -> list[Path]:
    """Folders inside, in order; a link to one elsewhere is not followed."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
