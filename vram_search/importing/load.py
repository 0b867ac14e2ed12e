"""Runs made elsewhere, wherever a path leads: a table, a run's folder, or folders of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vram_search.errors import InputError
from vram_search.importing.files import unreadable
from vram_search.importing.folder import MARKS, NoTrainingError, is_run, load_run
from vram_search.importing.table import load_table
from vram_search.store import ImportedTrial
from vram_search.tools.file_kinds import naming_other_files

MAX_DEPTH = 6
"""Folders below the named one; LLaMA-Factory writes saves/MODEL/lora/RUN."""
_MOST_ENTRIES = 2_000
"""Files and folders that are looked at for another program's logs."""
_NOT_SEARCHED = {"__pycache__", "node_modules", "wandb", "mlruns", "runs"}


class LoadedRuns(NamedTuple):
    """The runs of a path, and the folders that a prediction wrote."""

    runs: list[ImportedTrial]
    predictions: list[Path]


def load_runs(path: Path) -> LoadedRuns:
    """All runs of a CSV file, of a run's folder, or of the folders inside a folder.

    Raises:
        InputError: there is none, or one of them is malformed: then nothing is imported.
    """
    try:
        if path.is_file():
            with naming_other_files(path, "import"):
                return LoadedRuns(load_table(path), [])
        folders = [path] if is_run(path) else list(_run_folders(path, MAX_DEPTH))
        tables = [] if folders else sorted(path.glob("*.csv"))
    except OSError as error:
        raise unreadable(path, error) from None
    found: list[tuple[Path, ImportedTrial]] = []
    predictions = []
    for folder in folders:
        try:
            found.append((folder, load_run(folder)))
        except NoTrainingError:
            if folder == path:
                raise
            predictions.append(folder)
    runs = _named_apart(found, path) + [run for table in tables for run in load_table(table)]
    if not runs:
        raise InputError(
            f"{path}: holds no run" + (", only predictions" if predictions else ""),
            _other_logs(path)
            or f"name a CSV file, or a folder with one of {', '.join(MARKS)}, or a folder that "
            "such folders are in",
        )
    return LoadedRuns(runs, predictions)


def _other_logs(path: Path) -> str:
    """Says how the runs of a tracker's folder are exported; empty for another folder."""
    names = {entry.name for entry in islice(path.rglob("*"), _MOST_ENTRIES)}
    if any(name.startswith("events.out.tfevents.") for name in names):
        return (
            "TensorBoard's event files are not read: give the output folder of the training, "
            "which holds trainer_state.json, or a CSV table with one run per row"
        )
    if names >= {"meta.yaml", "metrics", "params"}:
        return (
            "MLflow's folder is not read: export its runs as CSV, in its page or with "
            "mlflow.search_runs(search_all_experiments=True).to_csv(FILE)"
        )
    if any(name.endswith(".wandb") for name in names):
        return "W&B's folder is not read: export the table of runs as CSV from its page"
    return ""


def _run_folders(path: Path, depth: int) -> Iterator[Path]:
    """Folders of runs inside, in order; a link to one elsewhere is not followed."""
    for entry in sorted(path.iterdir()):
        if not entry.is_dir() or entry.is_symlink() or entry.name in _NOT_SEARCHED:
            continue
        if entry.name.startswith("."):
            continue
        if is_run(entry):
            yield entry
        elif depth > 1:
            yield from _run_folders(entry, depth - 1)


def _named_apart(found: list[tuple[Path, ImportedTrial]], root: Path) -> list[ImportedTrial]:
    """Runs of the same folder name carry their path below the root as their name."""
    counts = Counter(run.provenance["run"] for _, run in found)
    return [
        run
        if counts[run.provenance["run"]] == 1
        else replace(run, provenance=run.provenance | {"run": folder.relative_to(root).as_posix()})
        for folder, run in found
    ]
