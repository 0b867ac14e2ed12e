"""A database that another process locks for long: a write waits, warns, and goes on."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from vram_search.errors import StoreError
from vram_search.store import open_database, sqlite_url
from vram_search.store.database import reading, writing

WAIT_SECONDS = 0.05
"""For 30 s: SQLite's wait after which a warning is logged."""


class _Release(logging.Handler):
    """Ends the other process's transaction at the third warning."""

    def __init__(self, other: sqlite3.Connection) -> None:
        super().__init__()
        self.other, self.warnings = other, 0

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings += 1
        if self.warnings == 3:
            self.other.execute("ROLLBACK")


def test_write_waits_for_a_long_lock_and_warns(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    engine = open_database(sqlite_url(file), create=True, busy_seconds=WAIT_SECONDS)
    log = logging.getLogger("vram_search.store.database")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = _Release(other)
        log.addHandler(release)
        try:
            with writing(engine) as connection:
                connection.execute(
                    text("INSERT INTO vs_events VALUES (1, '2026-01-01', 'a', 's', NULL, '{}')")
                )
        finally:
            log.removeHandler(release)
    assert release.warnings == 3
    with reading(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM vs_events")) == 1
    engine.dispose()


def test_lock_that_never_ends_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    engine = open_database(sqlite_url(file), create=True, busy_seconds=WAIT_SECONDS)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"), writing(engine, lock_attempts=2):
            pass
    engine.dispose()
