"""Finds what the folder of a database holds beyond its record, and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vram_search.store import Store, TrialRecord
from vram_search.store.location import StudyFolder, bytes_in, trial_folder
from vram_search.worker.checkpoints import unneeded_checkpoints
from vram_search.worker.context import leftover_adapters


@dataclass(frozen=True)
class Leftover:
    """A folder that no trial keeps.

    Attributes:
        study: name of the study, or of its folder if the record holds no such study.
    """

    study: str
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class LostAdapter:
    """An adapter that the record names and that is not on this disk.

    Attributes:
        is_foreign: True if its path is outside the folder of the database.
    """

    study: str
    trial: TrialRecord
    path: Path
    is_foreign: bool


def leftovers(store: Store) -> list[Leftover]:
    """Adapters and checkpoints that killed trainings left in the folders of all studies.

    A running trial is left out: it may be writing now.
    """
    found = []
    for study, folder, trials in _study_folders(store):
        running = {trial_folder(trial.number) for trial in trials if trial.outcome is None}
        unneeded = [
            *leftover_adapters(folder / "adapters", trials),
            *unneeded_checkpoints(folder / "checkpoints", trials),
        ]
        for path in unneeded:
            if path.stem not in running:
                found.append(Leftover(study, path, bytes_in(path)))
    return found


def lost_adapters(store: Store) -> list[LostAdapter]:
    """Adapters of the record that are not on this disk."""
    root = store.files.resolve()
    found = []
    for study in store.studies():
        for trial in store.trials(study.id):
            if trial.adapter_path is not None and not Path(trial.adapter_path).is_dir():
                path = Path(trial.adapter_path)
                is_foreign = not path.resolve().is_relative_to(root)
                found.append(LostAdapter(study.name, trial, path, is_foreign))
    return found


def _study_folders(store: Store) -> Iterator[tuple[str, Path, list[TrialRecord]]]:
    """Name, folder and trials of each study, then the folders of studies that are not recorded."""
    if not store.files.is_dir():
        return
    known = {StudyFolder(store.files, study.name).path: study for study in store.studies()}
    for path in sorted(store.files.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        study = known.get(path)
        yield (
            path.name if study is None else study.name,
            path,
            [] if study is None else store.trials(study.id),
        )
