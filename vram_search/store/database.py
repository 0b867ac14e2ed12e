"""Opens the database: makes, checks and migrates it, and hands out its transactions.

Alembic is imported only when there is something to migrate: queries must start fast.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    RootTransaction,
    String,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    text,
)
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import StaticPool

from vram_search.errors import NothingStoredError, StoreError, reason_of
from vram_search.store.faults import (
    URL_FORMS,
    CannotWriteError,
    describe,
    parse_url,
    store_errors,
)
from vram_search.store.read_only import connect_without_writing, copied_to_memory
from vram_search.store.same_file import SameFile, is_mounted_alone
from vram_search.store.tables import metadata
from vram_search.units import MIB, format_bytes

VERSION_TABLE = "vram_search_alembic_version"
# Every revision in migrations/versions, oldest first; a test compares it with Alembic's own list.
KNOWN_REVISIONS = tuple(f"{number:04d}" for number in range(1, 16))
BUSY_SECONDS = 30.0
LOCK_ATTEMPTS = 10
"""Times that a write waits BUSY_SECONDS for the lock, with a warning after each."""
CONNECT_SECONDS = 4
"""Longest wait for a server's answer to a new connection."""
OUTAGE_SECONDS = 1800.0
"""Longest outage of a database server that a search waits for."""
OUTAGE_POLL_SECONDS = 1.0
_SERVER_POOL: Mapping[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 14}
"""SQLAlchemy's pool for a server: one connection stays open in each process, for a server grants
about 100 (PostgreSQL's `max_connections`), and a lost one is made again."""
# Space for the record of a long study: a trial takes about 100 KB.
MIN_FREE_BYTES = 64 * MIB

_OPTUNA = {"studies", "trials", "version_info", "alembic_version"}
_MIGRATIONS = Path(__file__).resolve().parent / "migrations"
# Execution option of a connection: the words after SQLite's BEGIN, or None for no transaction.
_LOG = logging.getLogger(__name__)
_BEGIN = "vram_search_begin"
_PATIENT: WeakSet[Engine] = WeakSet()
_SAME_FILE: WeakKeyDictionary[Engine, SameFile] = WeakKeyDictionary()


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, for `open_database` and for Optuna."""
    return URL.create("sqlite", database=str(path.absolute())).render_as_string()


def open_database(url: str, *, create: bool, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Opens a database and brings its tables up to date.

    Args:
        url: `sqlite:////abs/path.db` or `postgresql://...`.
        create: make folder, file and tables where missing; without it a database that has never
            seen a study is refused. Tables of an older version are migrated either way.
        busy_seconds: how long a transaction waits for another process's.

    Raises:
        StoreError: the URL, the file or its disk cannot be used, or the file is not ours.
    """
    parsed = _parse_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite:
        _check_file(Path(str(parsed.database)), create)
    engine = _sqlite_engine(parsed, busy_seconds) if is_sqlite else _server_engine(parsed)
    try:
        _bring_up_to_date(engine, create, busy_seconds)
    except CannotWriteError:
        engine.dispose()
        if create:
            raise
        return _open_without_writing(parsed)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _open_without_writing(url: URL) -> Engine:
    """Opens an SQLite file for reading on a full or a read-only disk.

    Tables of an older version are brought up to date in a copy in memory.

    Raises:
        StoreError: the file cannot be read either.
    """
    file = Path(str(url.database))
    engine = _engine_of(url, lambda: connect_without_writing(file))
    try:
        with store_errors(url):
            with reading(engine) as connection:
                revision = _revision(connection)
            if revision is None:
                raise _nothing_stored(url)
            if revision != KNOWN_REVISIONS[-1]:
                engine.dispose()
                engine = _engine_of(url, lambda: copied_to_memory(file))
                with engine.begin() as connection:
                    _migrate(connection)
                    connection.exec_driver_sql("PRAGMA query_only = ON")
        return engine
    except OSError as error:
        engine.dispose()
        raise StoreError(
            f"database {file} cannot be read: {reason_of(error)}",
            "free some space on its disk or in the folder for temporary files",
        ) from error
    except BaseException:
        engine.dispose()
        raise


def _engine_of(url: URL, connect: Callable[[], Any]) -> Engine:
    """An engine of one connection, for reading."""
    return create_engine(url, creator=connect, poolclass=StaticPool)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Opens a connection that sees one state of the database and never waits for a writer."""
    with store_errors(engine.url), _connect(engine) as connection:
        yield connection


def wait_through_outages(engine: Engine) -> None:
    """Lets each transaction wait up to OUTAGE_SECONDS for a database server that is restarted."""
    _PATIENT.add(engine)


def _connect(engine: Engine) -> Connection:
    deadline = time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            return engine.connect()
        except OperationalError:
            if engine not in _PATIENT or time.monotonic() > deadline:
                raise
            time.sleep(OUTAGE_POLL_SECONDS)


@contextmanager
def writing(engine: Engine, lock_attempts: int = LOCK_ATTEMPTS) -> Iterator[Connection]:
    """Opens a transaction with the write lock from its start; any exception rolls it back.

    Args:
        lock_attempts: times that it waits BUSY_SECONDS for another process's lock (SQLite).
    """
    with store_errors(engine.url), _connect(engine) as connection:
        if (same_file := _SAME_FILE.get(engine)) is not None:
            same_file.check()
            same_file.check_log()
        connection = connection.execution_options(**{_BEGIN: "IMMEDIATE"})
        with _begun(connection, engine, lock_attempts):
            yield connection


def _begun(connection: Connection, engine: Engine, attempts: int) -> RootTransaction:
    """Begins the transaction; a lock of another process ends a night only after a long wait."""
    for attempt in range(attempts):
        try:
            return connection.begin()
        except OperationalError as error:
            if "is locked" not in str(error.orig) or attempt + 1 == attempts:
                raise
            name = describe(engine.url)
            _LOG.warning("database %s is locked by another process; waiting for it", name)
    raise AssertionError("the loop returns or raises")


def _parse_url(url: str) -> URL:
    parsed = parse_url(url)
    backend, _, driver = parsed.drivername.partition("+")
    if backend == "postgresql":
        return parsed
    if backend != "sqlite" or driver not in ("", "pysqlite"):
        raise StoreError(f"{describe(parsed)}: {parsed.drivername} is not supported", URL_FORMS)
    if parsed.query or parsed.host or not parsed.database or parsed.database == ":memory:":
        raise StoreError(
            f"{parsed.drivername}: the URL does not name a file (options are not supported)",
            URL_FORMS,
        )
    return parsed.set(database=str(Path(parsed.database).absolute()))


def _check_file(file: Path, create: bool) -> None:
    """Refuses a missing file, or makes its folder and checks for room."""
    try:
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise StoreError(f"database {file} is a folder", "name a file in it with --database")
        if file.exists() and not file.is_file():  # SQLite would wait for a named pipe for ever
            raise StoreError(
                f"database {file} is not a regular file", "name another with --database"
            )
        if create and file.exists() and file.stat().st_nlink > 1:
            raise StoreError(
                f"database {file} has another name, too (a hard link): SQLite would damage it",
                "delete the other name, or copy the file (`cp`, not `cp -l`) and use the copy",
            )
        if create and is_mounted_alone(file):
            raise StoreError(
                f"database {file} is mounted as a single file: its log would be in another folder "
                "than that of the file's own path",
                "mount its folder instead",
            )
        if not create and not file.exists():
            raise NothingStoredError(
                f"no database at {file}",
                "run `vram-search run STUDY.yaml` first, or name one with --database",
            )
        free_bytes = shutil.disk_usage(file.parent).free
    except OSError as error:
        raise StoreError(
            f"database {file} cannot be reached: {reason_of(error)}",
            "check the folder and its permissions, or name another database with --database",
        ) from error
    if create and free_bytes < MIN_FREE_BYTES:
        raise StoreError(
            f"database {file}: only {format_bytes(free_bytes)} are free on its disk, "
            f"{format_bytes(MIN_FREE_BYTES)} are needed",
            "free some space, or name a database on another disk with --database",
        )


def _sqlite_engine(url: URL, busy_seconds: float) -> Engine:
    engine = create_engine(url, connect_args={"timeout": busy_seconds})
    same_file = _SAME_FILE[engine] = SameFile(Path(str(url.database)))

    @event.listens_for(engine, "connect")
    def configure(dbapi_connection: Any, _record: Any) -> None:
        same_file.check()
        # Python's driver would begin transactions late and DEFERRED; we say when, below.
        dbapi_connection.isolation_level = None
        dbapi_connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that starts by reading would fail at once, not wait, when another has written
        # in between (SQLITE_BUSY_SNAPSHOT): so it takes the lock first.
        mode = connection.get_execution_options().get(_BEGIN, "DEFERRED")
        if mode:
            connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def server_arguments(url: URL) -> dict[str, Any]:
    """SQLAlchemy's engine arguments for a server. One that does not answer is given up soon, if the
    URL does not say when (libpq waits for minutes)."""
    arguments = dict(_SERVER_POOL)
    if "connect_timeout" not in url.query:
        arguments["connect_args"] = {"connect_timeout": CONNECT_SECONDS}
    return arguments


def _server_engine(url: URL) -> Engine:
    try:
        return create_engine(url, **server_arguments(url))
    except (ModuleNotFoundError, ArgumentError) as error:
        raise StoreError(
            f"database {describe(url)} needs a driver that is not installed: {error}",
            "install it with `pip install psycopg[binary]`",
        ) from error


def _bring_up_to_date(engine: Engine, create: bool, busy_seconds: float) -> None:
    head = KNOWN_REVISIONS[-1]
    with reading(engine) as connection:
        revision = _revision(connection)
    if revision == head and not create:
        return
    if revision is None and not create:
        raise _nothing_stored(engine.url)
    if engine.dialect.name == "sqlite":
        with store_errors(engine.url):
            _use_write_ahead_log(engine, busy_seconds)
    # At the start of a run the user is there to end the other process.
    with writing(engine, lock_attempts=1) as connection:
        revision = _revision(connection)
        if revision is None:
            _create(connection)
        elif revision != head:
            _migrate(connection)
        # Changes nothing, yet fails where nothing may be written (BEGIN IMMEDIATE alone does not):
        # better now than after the first trial has trained.
        connection.execute(text(f"DELETE FROM {VERSION_TABLE} WHERE 1 = 0"))


def _nothing_stored(url: URL) -> NothingStoredError:
    return NothingStoredError(
        f"database {describe(url)} holds no study of vram-search yet",
        "run `vram-search run STUDY.yaml` first, or name one with --database",
    )


def _revision(connection: Connection) -> str | None:
    """Returns our revision in the database; None if our tables may be created.

    Raises:
        StoreError: the revision is newer than this code, or the database is someone else's.
    """
    name = describe(connection.engine.url)
    tables = set(inspect(connection).get_table_names())
    if VERSION_TABLE in tables:
        query = text(f"SELECT version_num FROM {VERSION_TABLE}")
        revision: str | None = connection.scalar(query)
        if revision is None or revision in KNOWN_REVISIONS:
            return revision
        raise StoreError(
            f"database {name} was made by a newer vram-search (its version is {revision}, "
            f"this one knows up to {KNOWN_REVISIONS[-1]})",
            "install the newer version with `pip install -U vram-search`, or name another "
            "database with --database",
        )
    if tables and not _are_optunas(tables):
        some = ", ".join(sorted(tables)[:3])
        raise StoreError(
            f"database {name} belongs to another program (it holds the tables {some}); "
            "nothing was changed",
            "name another database with --database",
        )
    return None


def optuna_tables(tables: set[str]) -> set[str]:
    """The tables that Optuna makes (optuna/storages/_rdb/models.py) among these."""
    return {name for name in tables if name in _OPTUNA or name.startswith(("study_", "trial_"))}


def _are_optunas(tables: set[str]) -> bool:
    """True for the tables Optuna makes, and no others."""
    return tables >= _OPTUNA and optuna_tables(tables) == tables


def _use_write_ahead_log(engine: Engine, busy_seconds: float) -> None:
    """Lets readers read while the search writes; the file remembers it."""
    deadline = time.monotonic() + busy_seconds
    while True:
        try:
            with engine.connect() as connection:
                # Not possible inside a transaction.
                outside = connection.execution_options(**{_BEGIN: None})
                outside.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            # Of two processes that switch a new file at once, SQLite fails one without waiting.
            if "is locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _create(connection: Connection) -> None:
    """Creates the tables as the revisions would, in a fifth of the time; a test compares both."""
    metadata.create_all(connection, checkfirst=False)
    version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))
    version.create(connection, checkfirst=False)
    connection.execute(insert(version).values(version_num=KNOWN_REVISIONS[-1]))


def _migrate(connection: Connection) -> None:
    """Runs the missing revisions within the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign would be taken for configparser's interpolation.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, "head")
