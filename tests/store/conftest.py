"""A store on a real SQLite file, and real second processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vram_search
from tests.store.postgres import new_database, run_server
from vram_search.store import Store, StudyRecord, open_store, sqlite_url

CHECKOUT = Path(vram_search.__file__).parent.parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "search.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    opened = open_store(sqlite_url(file), create=True)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL server; see `tests/store/postgres.py`."""
    yield from run_server()


BOTH = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
"""Parameters of a store on each database that is supported."""


def store_on(backend: str, request: pytest.FixtureRequest, file: Path) -> Iterator[Store]:
    """A new store on a database of this kind."""
    if backend == "sqlite":
        store = open_store(sqlite_url(file), create=True)
        yield store
        store.close()
        return
    server = request.getfixturevalue("postgres")
    with new_database(server, f"test-{abs(hash(request.node.nodeid))}") as url:
        store = open_store(url, create=True)
        yield store
        store.close()


@pytest.fixture
def study(store: Store) -> StudyRecord:
    return store.create_study("demo", {"trials": 30}, "d1", {"name": "card"}, {"name": "model"})


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_python() -> Iterator[Start]:
    """Starts `python -c CODE ARGS...` that can import the package; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object, folder: Path = CHECKOUT) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


HOLD_WRITE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE vs_studies SET name = 'uncommitted'")
print("holding", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@pytest.fixture
def writer(store: Store, study: StudyRecord, file: Path, start_python: Start) -> object:
    """Another process, in the middle of a transaction that writes."""
    process = start_python(HOLD_WRITE_LOCK, file)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process
