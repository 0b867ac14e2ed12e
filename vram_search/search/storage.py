"""Optuna's storage in our database."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages import RDBStorage

BUSY_SECONDS = 30
"""How long a write waits for another process's; sqlite3 alone waits 5 s."""


@contextmanager
def open_storage(url: str) -> Iterator[RDBStorage]:
    """Optuna's tables in a database, created where they are missing.

    Args:
        url: SQLAlchemy URL.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    storage = RDBStorage(url, engine_kwargs=engine_arguments(url))
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def engine_arguments(url: str) -> dict[str, Any]:
    """SQLAlchemy's engine arguments with which a connection waits for another process's write."""
    return {"connect_args": {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}}
