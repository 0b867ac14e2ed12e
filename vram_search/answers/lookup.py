"""Finds the database, the study and the trial that a question names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vram_search.errors import InputError, NotFoundError
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord, TrialRecord, open_store
from vram_search.store.location import database_url

DIGITS_OF_A_NUMBER = 18
"""The database's integers have 64 bits; no study has trials of longer numbers."""


@contextmanager
def opened(database: str | None) -> Iterator[Store]:
    """Opens the database for reading, and closes it.

    Args:
        database: a URL or an SQLite file; None: the default one.

    Raises:
        StoreError: no database exists there, or vram-search did not write it.
    """
    store = open_store(database_url(database), create=False)
    try:
        yield store
    finally:
        store.close()


def find_study(store: Store, name: str | None) -> StudyRecord:
    """Returns the named study, or the search with the latest activity.

    Imported runs count only if there is no search.

    Raises:
        InputError: it is not in the database, or the study file cannot be read.
    """
    if name is None:
        latest = store.latest_study()
        if latest is None:
            raise NotFoundError(
                "the database holds no study", "run one: vram-search run STUDY.yaml"
            )
        return latest
    found = store.study(name) or store.study(_name_in_file(name))
    if found is None:
        known = ", ".join(study.name for study in store.studies()) or "none"
        raise NotFoundError(f"no study {name!r} in the database", f"there are: {known}")
    return found


def _name_in_file(name: str) -> str:
    """Returns the study's name of a file such as `studies/demo.yaml`.

    Raises:
        InputError: the file is not a YAML mapping.
    """
    path = Path(name)
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return path.stem
    from vram_search.spec.load import load_mapping

    return str(load_mapping(path).get("study", path.stem))


def find_trial(store: Store, study: StudyRecord, which: str) -> TrialRecord:
    """Returns a trial by its number, or the best one.

    Args:
        which: a number as text, or "best".

    Raises:
        InputError: the study has no such trial.
    """
    if which == "best":
        top = best_trials(store, study, limit=1)
        if not top:
            raise NotFoundError(
                f"study {study.name} has no complete trial yet", "see `vram-search top --all`"
            )
        return top[0]
    if not which.isdecimal():
        raise InputError(f"{which!r} is not a trial: give its number, or best")
    trial = store.trial(study.id, int(which)) if len(which) <= DIGITS_OF_A_NUMBER else None
    if trial is None:
        raise NotFoundError(
            f"study {study.name} has no trial {which}", "`vram-search top --all` lists them"
        )
    return trial
