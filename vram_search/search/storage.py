"""Optuna's storage: in our database, or in memory if Optuna cannot use its tables there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Index, create_engine, inspect
from sqlalchemy.schema import CreateIndex

from vram_search.search.optuna_tables import OptunaTables, read_optuna
from vram_search.store.database import server_arguments
from vram_search.store.faults import is_of_the_machine, parse_url, search_errors

BUSY_SECONDS = 300
"""How long a write waits for another process's; sqlite3 alone waits 5 s."""
SETTLE_SECONDS = 2.0
"""Time after which tables that another worker changes agree with the record."""
UNREADABLE = "Optuna cannot read them"


def optuna_name(study: str, revision: int) -> str:
    """The name of a study's revision in Optuna's tables."""
    return study if revision == 1 else f"{study}@{revision}"


@contextmanager
def open_storage(
    url: str,
    study: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    contradiction: Callable[[OptunaTables], str] = lambda tables: "",
) -> Iterator[BaseStorage]:
    """Optuna's tables in a database, created where they are missing.

    Our record is what counts: if another version of Optuna wrote the tables, if they are damaged
    or hold another study of this name, the search continues in memory with what the record knows
    (`Search.learn`).

    Args:
        url: SQLAlchemy URL.
        study: its trials are read once, to see that they can be.
        note: called with a sentence if the tables cannot be used.
        contradiction: says how the tables contradict the record; empty if they do not.

    Raises:
        StoreError: the database is locked, full, read-only, or cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with search_errors(url):
        problem = _problem_of(url, study, contradiction)
        storage = None if problem else _usable_storage(url, study)
    if storage is None:
        note(
            f"Optuna's tables in the database cannot be used ({problem or UNREADABLE}); the search "
            "goes on with what the record knows, and leaves them as they are "
            "(`vram-search db repair` writes them again)"
        )
        yield InMemoryStorage()
        return
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _problem_of(url: str, study: str | None, contradiction: Callable[[OptunaTables], str]) -> str:
    """Why Optuna's tables must not be used; empty if they may be, or if they hold nothing.

    Empty tables are left to Optuna: a process that creates them now, or was killed while it did,
    may have made a part of them. Trials that another worker is reporting look faulty for a moment:
    only a contradiction that stays counts.
    """
    engine = create_engine(url, **engine_arguments(url))
    try:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            tables = read_optuna(engine)
            if tables.is_empty:
                return ""
            if tables.problem or study is None:
                return tables.problem
            if strange := sorted(n for n in tables.foreign if n.partition("@")[0] == study):
                return f"they hold another study of the name {strange[0]}"
            problem = contradiction(tables)
            if not problem or time.monotonic() > deadline:
                return problem
            time.sleep(SETTLE_SECONDS / 10)
    finally:
        engine.dispose()


def _usable_storage(url: str, study: str | None) -> RDBStorage | None:
    """Optuna's tables; None if Optuna refuses them or cannot read the study in them."""
    storage = None
    try:
        storage = RDBStorage(url, engine_kwargs=engine_arguments(url))
        _create_missing_indexes(storage)
        for found in storage.get_all_studies():
            if study is not None and found.study_name.partition("@")[0] == study:
                storage.get_all_trials(found._study_id, deepcopy=False)
    except Exception as error:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        if is_of_the_machine(error):
            raise
        return None
    return storage


def _create_missing_indexes(storage: RDBStorage) -> None:
    """Creates indexes that a process left out which was killed while it made the tables.

    Optuna makes an index together with its table alone. Without the unique index of the names each
    run would add its study again, until the second one could not be read. A process that makes the
    tables at this moment has time to finish: its own index must not be there before it.
    """
    if _missing_indexes(storage):
        time.sleep(SETTLE_SECONDS)
        with storage.engine.begin() as connection:
            for index in _missing_indexes(storage):
                connection.execute(CreateIndex(index, if_not_exists=True))


def _missing_indexes(storage: RDBStorage) -> list[Index]:
    inspector = inspect(storage.engine)
    return [
        index
        for table in models.BaseModel.metadata.tables.values()
        for index in table.indexes
        if not inspector.has_index(table.name, str(index.name))
    ]


def engine_arguments(url: str) -> dict[str, Any]:
    """SQLAlchemy's engine arguments with which a connection waits for another process's write, or
    is made again if a server has restarted."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": BUSY_SECONDS}}
    return server_arguments(parse_url(url))


def delete_search(url: str, name: str) -> None:
    """Deletes a study's trials from Optuna's tables, those of earlier revisions too."""
    with open_storage(url) as storage:
        for known in optuna.get_all_study_names(storage):
            if known == name or known.rpartition("@")[0] == name:
                optuna.delete_study(study_name=known, storage=storage)
