"""Backs up and moves a database together with its folder of files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from vram_search.answers.base import Answer
from vram_search.errors import InputError, StoreError, VramSearchError, reason_of
from vram_search.store import Store
from vram_search.store.database import sqlite_url
from vram_search.store.faults import describe
from vram_search.store.location import bytes_in, files_folder, service_lock
from vram_search.store.read_only import connect_without_writing
from vram_search.upkeep.repair import all_locked
from vram_search.worker.lock_file import lock_is_held

_PAGES = 1000
"""Pages that SQLite copies before it lets writers go on."""
_LOCKS = shutil.ignore_patterns("*.lock")


class CopyAnswer(Answer):
    """A database that was backed up or moved."""

    source: str
    target: str
    files: str | None = Field(description="Folder of its files there; None: without files.")
    size_bytes: int = Field(description="Of the database and its files at the target.")


def back_up(store: Store, target: Path, *, with_files: bool = True) -> CopyAnswer:
    """Copies a database, also while a search writes to it, and the folder of its files.

    The database is copied first: an adapter that a trial saves meanwhile is then an extra folder,
    not a missing one.

    Args:
        target: a file that does not exist yet.

    Raises:
        InputError: the target exists, or the database is on a server.
        VramSearchError: the target cannot be written.
    """
    file = _file_of(store, "pg_dump writes its backup")
    _refuse_existing(target)
    with writing_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        part.unlink(missing_ok=True)
        try:
            _copy_database(file, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        try:
            files = copy_files(store.files, _files_of(target)) if with_files else None
        except OSError:
            target.unlink()
            raise
    size = target.stat().st_size + (0 if files is None else bytes_in(files))
    return CopyAnswer(
        source=str(file),
        target=str(target),
        files=None if files is None else str(files),
        size_bytes=size,
    )


def move_database(store: Store, url: str, target: Path) -> CopyAnswer:
    """Moves a database and the folder of its files; the record's paths are relative to it.

    Args:
        url: URL of the database.
        target: a file that does not exist yet.

    Raises:
        InputError: a study is being run, the target exists, or the database is on a server.
        VramSearchError: the target cannot be written; the database is where it was.
    """
    file = _file_of(store, "pg_dump and psql move it")
    _refuse_existing(target)
    if lock_is_held(service_lock(url)):
        raise InputError("the service works on this database", "end `vram-search serve` first")
    with all_locked(store):  # Windows moves no folder with an open file: only a check
        pass
    files, new_files = store.files, _files_of(target)
    store.close()  # SQLite folds its write-ahead log into the file
    with writing_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _fold_log(file)
        if files.is_dir():
            shutil.move(files, new_files)
        try:
            shutil.move(file, target)
        except OSError:
            if new_files.is_dir():
                shutil.move(new_files, files)
            raise
    has_files = new_files.is_dir()
    return CopyAnswer(
        source=str(file),
        target=str(target),
        files=str(new_files) if has_files else None,
        size_bytes=target.stat().st_size + (bytes_in(new_files) if has_files else 0),
    )


def _file_of(store: Store, instead: str) -> Path:
    """The real file of an SQLite database."""
    if store.engine.dialect.name != "sqlite":
        name = describe(store.engine.url)
        raise InputError(f"database {name} is on a server", f"use its own tools: {instead}")
    return Path(str(store.engine.url.database)).resolve()


def _files_of(target: Path) -> Path:
    return files_folder(sqlite_url(target))


def _refuse_existing(target: Path) -> None:
    for path in (target, _files_of(target)):
        if path.exists():
            raise InputError(f"{path} exists already", "name another file")


def _copy_database(file: Path, target: Path) -> None:
    """Copies one state of the database; on a read-only disk, too."""
    try:
        source = sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        source = connect_without_writing(file)
    with contextlib.closing(source), contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=_PAGES)
    with target.open("rb+") as stream:  # Windows flushes a file that may be written alone
        os.fsync(stream.fileno())


def copy_files(source: Path, target: Path) -> Path | None:
    """Copies a folder of files without its locks; None if there is none.

    A search may remove files meanwhile, such as checkpoints; they are left out.

    Raises:
        OSError, shutil.Error: the target cannot be written; nothing of the copy is left there.
    """
    if not source.is_dir():
        return None
    try:
        shutil.copytree(source, target, ignore=_LOCKS, symlinks=True, dirs_exist_ok=True)
    except shutil.Error as error:
        if any(os.path.lexists(path) for path, _, _ in error.args[0]):
            shutil.rmtree(target, ignore_errors=True)
            raise
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def _fold_log(file: Path) -> None:
    """Writes what is in the log into the file, which then can be moved alone."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StoreError(f"database {file} is in use", "close what reads it, and try again")


@contextlib.contextmanager
def writing_errors(target: Path) -> Iterator[None]:
    """Names the target if its disk takes nothing more."""
    try:
        yield
    except (OSError, shutil.Error, sqlite3.OperationalError) as error:
        said = reason_of(error)
        if isinstance(error, shutil.Error):
            said = error.args[0][0][2]  # the first file's reason
        raise VramSearchError(
            f"{target} cannot be written: {said}", "check its folder and the free space there"
        ) from error
