"""A PostgreSQL server of the test session's own; it listens on a Unix socket alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote

import pytest

PROGRAMS = Path("/usr/lib/postgresql")
"""Debian's package keeps the programs here, by version."""


def program(name: str) -> str | None:
    """The path of a program of PostgreSQL."""
    found = sorted(PROGRAMS.glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def run_server() -> Iterator[str]:
    """Starts a server and yields the URL of a database in it, without the name."""
    with restartable_server() as (url, _):
        yield url


@contextmanager
def restarted_server() -> Iterator[tuple[str, Callable[[], object]]]:
    """Starts a server; yields the URL of a database in it, and a function that restarts it at
    once, as after a crash."""
    with restartable_server() as (server, restart), new_database(server, "restarted") as url:
        yield url, restart


@contextmanager
def restartable_server() -> Iterator[tuple[str, Callable[[], object]]]:
    """Starts a server; yields the URL of its databases, without the name, and a function that
    restarts it."""
    initdb, pg_ctl = program("initdb"), program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed: the store was tested on SQLite alone")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    folder = Path(mkdtemp(prefix="vs-pg-"))  # a socket's path has at most 107 characters
    # The server refuses to run as root.
    account: dict[str, Any] = {"user": "postgres"} if os.name != "nt" and os.getuid() == 0 else {}
    if account:
        shutil.chown(folder, "postgres")
    data = folder / "data"
    quiet: dict[str, Any] = {"check": True, "capture_output": True, "cwd": folder, **account}
    subprocess.run([initdb, "-D", data, "-U", "tests", "-A", "trust", "-N"], **quiet)
    options = f"-c listen_addresses= -c unix_socket_directories='{folder}' -c fsync=off"
    log = folder / "log"
    subprocess.run([pg_ctl, "-D", data, "-o", options, "-l", log, "-w", "start"], **quiet)
    try:
        again: list[Any] = [
            pg_ctl,
            "-D",
            data,
            "-o",
            options,
            "-l",
            log,
            "-m",
            "immediate",
            "-w",
            "restart",
        ]
        yield (
            f"postgresql+psycopg://tests@/%s?host={quote(str(folder))}",
            lambda: subprocess.run(again, **quiet),
        )
    finally:
        subprocess.run([pg_ctl, "-D", data, "-m", "immediate", "stop"], **quiet)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: str, name: str) -> Iterator[str]:
    """Makes an empty database and yields its URL."""
    from sqlalchemy import create_engine, text

    engine = create_engine(server % "postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    engine.dispose()
    yield server % name
