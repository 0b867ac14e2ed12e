"""A worker's turn: while it lasts, no other worker of the study proposes a trial or ends one.

The operating system or the server releases it when the process dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from vram_search.store.database import reading
from vram_search.store.location import StudyFolder, files_folder

TURN_LOCK = 8418
"""First key of PostgreSQL's advisory lock; the second one is the study's id."""
POLL_SECONDS = 0.01


@contextlib.contextmanager
def study_turn(engine: Engine, study_id: int, study: str) -> Iterator[None]:
    """Waits for the turn and holds it.

    On SQLite it is a lock file: a transaction of ours would keep Optuna from writing. On PostgreSQL
    it is an advisory lock, which workers on other machines respect.
    """
    if engine.dialect.name == "sqlite":
        file: Path = StudyFolder(files_folder(engine.url), study).path / "turn.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file).acquire(poll_interval=POLL_SECONDS):
            yield
        return
    keys = {"lock": TURN_LOCK, "study": study_id}
    with reading(engine) as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT pg_advisory_lock(:lock, :study)"), keys)
        try:
            yield
        finally:
            try:
                connection.execute(text("SELECT pg_advisory_unlock(:lock, :study)"), keys)
            except DBAPIError:  # the server is gone, and the lock with it
                connection.invalidate()
