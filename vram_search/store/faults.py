"""Turns database errors with an outside cause into a StoreError that a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from vram_search.errors import InputError, StoreError, VramSearchError
from vram_search.shown_text import MASK

URL_FORMS = "write sqlite:////absolute/path.db or postgresql://user@host/name"
_DAMAGED = (
    "is damaged",
    "restore a copy of it (`db backup` makes one), or save the rest: `sqlite3 FILE .recover`",
)
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_HARMLESS_PARAMETERS = frozenset(
    {
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "dbname",
        "fallback_application_name",
        "gssencmode",
        "host",
        "hostaddr",
        "keepalives",
        "keepalives_idle",
        "load_balance_hosts",
        "port",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
        "tcp_user_timeout",
        "user",
    }
)
_ANOTHER = "or name another database with --database"

# What SQLite says (sqlite3.c, sqlite3ErrStr), what it means, and the way out.
_SQLITE_FAULTS = (
    (
        "is locked",
        "is locked: another process is writing to it and did not finish in time",
        "wait for that process or end it, and try again; on a network share, move the database "
        "to a local disk",
    ),
    (
        "readonly database",
        "may not be written",
        f"allow writing to the file and its folder, {_ANOTHER}",
    ),
    (
        "disk is full",
        "cannot grow: the disk is full",
        f"free some space and run again (what was recorded before is safe), {_ANOTHER}",
    ),
    (
        "is not a database",
        "is not an SQLite database",
        "check the path, " + _ANOTHER,
    ),
    ("malformed", *_DAMAGED),
    (
        "unable to open",
        "cannot be opened",
        f"check that it may be read, and its folder read and written, {_ANOTHER}",
    ),
    (
        "disk I/O error",
        "cannot be read or written: disk I/O error",
        f"check the disk and its free space, {_ANOTHER}",
    ),
)

_GRANT = "let its owner run: GRANT ALL ON DATABASE ... TO ...; GRANT ALL ON SCHEMA public TO ..."
_REFUSALS = {
    "42501": ("has no rights for this user", _GRANT),
    "3F000": ("has no schema for new tables", _GRANT),
    "25006": ("is read-only", f"name the primary server, not its standby, {_ANOTHER}"),
}
"""PostgreSQL's states (https://www.postgresql.org/docs/current/errcodes-appendix.html): the server
answers, and refuses."""

_OF_TABLES = ("no such table", "no such column", "has no column", "does not exist")
"""Messages of SQLite and PostgreSQL if a table differs from what a statement expects."""
_OF_WRITING = {"readonly database", "disk is full", "unable to open", "disk I/O error"}


class CannotWriteError(StoreError):
    """The file, its folder or its disk takes nothing new; perhaps it can still be read."""


def parse_url(url: URL | str) -> URL:
    """The parts of a database URL.

    Raises:
        StoreError: it has none; only its scheme is in the message, the rest may be a password.
    """
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        scheme, colon, _ = str(url).partition("://")
        shown = f"{scheme}://..." if colon else str(url)
        # Without its cause, which repeats the whole text.
        raise StoreError(f"{shown!r} is not a database URL", URL_FORMS) from None


def describe(url: URL | str) -> str:
    """The database for an error message: a file's path, or the URL without its secrets.

    Query parameters are secret unless libpq documents them as harmless (`password`, for example,
    may stand there too).

    Raises:
        StoreError: it is no URL.
    """
    url = parse_url(url)
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    hidden = {
        name: value if name in _HARMLESS_PARAMETERS else MASK for name, value in url.query.items()
    }
    return url.set(query=hidden).render_as_string(hide_password=True)


def secrets_of(url: URL | str) -> list[str]:
    """The password of a database URL, and the values of its parameters that may be secret."""
    url = parse_url(url)
    values = [str(url.password)] if url.password is not None else []
    for name, value in url.query.items():
        if name not in _HARMLESS_PARAMETERS:
            values += [value] if isinstance(value, str) else list(value)
    return [value for value in values if value]


def _without_secrets_of(url: URL | str, text: str) -> str:
    """A driver's message, which may repeat the connection string."""
    for secret in secrets_of(url):
        text = text.replace(secret, MASK)
    return text


class UnreachableError(StoreError):
    """The database server is out of reach; perhaps it is back soon."""


@contextmanager
def store_errors(url: URL | str) -> Iterator[None]:
    """Raises errors of the database's disk, file or network as StoreError within its block.

    Faults of our own code (a broken constraint, wrong SQL) pass through as they are.

    Raises:
        StoreError: locked, read-only, full, damaged, not a database, not reachable.
    """
    try:
        yield
    except json.JSONDecodeError as error:  # SQLite reads lost bytes of a file's end as zeros
        meaning, remedy = _DAMAGED
        raise StoreError(f"database {describe(url)} {meaning}", remedy) from error
    except (OverflowError, UnicodeEncodeError) as error:
        said = "a number" if isinstance(error, OverflowError) else "a text"
        raise InputError(f"no database can hold {said} like that: {error}") from error
    except DatabaseError as error:
        if not _is_of_the_world(error):
            raise
        raise _explained(url, error) from error


@contextmanager
def search_errors(url: URL | str) -> Iterator[None]:
    """As `store_errors`, for Optuna's tables: Optuna raises an error of its own from the
    database's."""
    try:
        yield
    except VramSearchError:
        raise
    except Exception as error:
        fault = error if isinstance(error, DatabaseError) else error.__cause__
        if not isinstance(fault, DatabaseError) or not _is_of_the_world(fault):
            raise
        raise _explained(url, fault) from error


def is_of_the_machine(error: BaseException) -> bool:
    """Returns True if disk, file, network or another process's lock caused an error of Optuna's or
    of the database; False if what is stored caused it."""
    fault = error if isinstance(error, DatabaseError) else error.__cause__
    if not isinstance(fault, DatabaseError) or type(fault) is not OperationalError:
        return False
    said = str(fault.orig)
    return not any(text in said for text in _OF_TABLES)


def _is_of_the_world(error: DatabaseError) -> bool:
    # IntegrityError, ProgrammingError and the like are siblings: bugs, not the world's. Without a
    # statement the driver refused the connection, for example an unknown parameter of the URL.
    # Tables that are gone, of a database that was made again, are a ProgrammingError of PostgreSQL.
    is_usual = type(error) in (DatabaseError, OperationalError) or error.statement is None
    is_refused = _state(error) in _REFUSALS
    return is_usual or is_refused or any(text in str(error.orig) for text in _OF_TABLES)


def _state(error: DatabaseError) -> str | None:
    """PostgreSQL's code of an error; None on SQLite."""
    return getattr(error.orig, "sqlstate", None)


def _explained(url: URL | str, error: DatabaseError) -> StoreError:
    said = _without_secrets_of(url, str(error.orig))
    for fragment, meaning, remedy in _SQLITE_FAULTS:
        if fragment in said:
            kind = CannotWriteError if fragment in _OF_WRITING else StoreError
            return kind(f"database {describe(url)} {meaning}", remedy)
    if (state := _state(error)) in _REFUSALS:
        meaning, remedy = _REFUSALS[str(state)]
        return StoreError(f"database {describe(url)} {meaning}: {said}", remedy)
    is_server = parse_url(url).get_backend_name() != "sqlite"
    is_away = is_server and isinstance(error, OperationalError)
    if is_away:
        return UnreachableError(
            f"database {describe(url)} cannot be reached: {said}",
            f"check that the server runs and that this machine reaches it, {_ANOTHER}",
        )
    return StoreError(f"database {describe(url)} cannot be used: {said}", f"check it, {_ANOTHER}")
