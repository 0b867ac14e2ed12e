"""Deletes a study: its record, Optuna's trials, its adapters and its logs."""

from __future__ import annotations

import contextlib

from vram_search.errors import NotFoundError, TooLateError
from vram_search.search.storage import delete_search
from vram_search.store import Store, StudyRecord
from vram_search.store.kept_files import DELETABLE, delete_kept
from vram_search.store.location import study_folder
from vram_search.store.queue import StudyQueue
from vram_search.worker.lease import refuse_if_worked_on
from vram_search.worker.queue_place import study_locked


def delete_study(store: Store, url: str, name: str) -> None:
    """Deletes a study and everything that was kept of it, except its exports.

    Raises:
        NotFoundError: no study has that name.
        TooLateError: the study is in the queue, or another process runs or deletes it, here or
            elsewhere.
    """
    study = _deletable(store, name)
    if study.is_imported:
        store.delete_study(study.id)
        return
    folder = study_folder(url, name)
    with study_locked(folder):
        study = _deletable(store, name)  # again: another page may have deleted it meanwhile
        refuse_if_worked_on(store, study, "end them first")
        delete_search(url, name)
        store.delete_study(study.id)
        for name in DELETABLE:
            own = folder.path / name
            for inside in own.iterdir() if own.is_dir() else ():
                delete_kept(folder.root, inside)
            with contextlib.suppress(OSError):
                own.rmdir()
        folder.log.unlink(missing_ok=True)


def _deletable(store: Store, name: str) -> StudyRecord:
    """The study.

    Raises:
        NotFoundError: no study has that name.
        TooLateError: the study is in the queue.
    """
    study = store.study(name)
    if study is None:
        raise NotFoundError(f"no study {name!r} in the database")
    for entry in StudyQueue(store.engine).entries():
        if entry.study == name:
            raise TooLateError(
                f"study {name} is in the queue (entry {entry.id}, {entry.state})",
                "cancel it first",
            )
    return study
