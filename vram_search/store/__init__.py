"""The record of every trial: one database, embedded SQLite unless a URL says otherwise."""

from __future__ import annotations

from vram_search.store import light_sqlalchemy  # noqa: F401  # before all that imports it
from vram_search.store.database import open_database, sqlite_url
from vram_search.store.records import (
    OUTCOMES,
    Evaluation,
    ImportedTrial,
    Outcome,
    StepLoss,
    StudyRecord,
    TrialRecord,
    TrialResult,
)
from vram_search.store.store import Store, TrialEndedError

__all__ = [
    "OUTCOMES",
    "Evaluation",
    "ImportedTrial",
    "Outcome",
    "StepLoss",
    "Store",
    "StudyRecord",
    "TrialEndedError",
    "TrialRecord",
    "TrialResult",
    "open_database",
    "open_store",
    "sqlite_url",
]


def open_store(url: str, *, create: bool) -> Store:
    """Opens a database (see `open_database`) as a Store.

    Raises:
        StoreError: the database cannot be used.
    """
    return Store(open_database(url, create=create))
