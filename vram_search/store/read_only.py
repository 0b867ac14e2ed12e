"""Opens a database for reading where nothing can be written: on a full or a read-only disk.

SQLite needs to write for reading: a database in WAL mode has an index of its log, `NAME-shm`.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import quote

_TEMPORARY_FOLDERS = (None, "/dev/shm")
"""None stands for the usual folder. The other is in memory, in case the disk is full."""


def connect_without_writing(file: Path) -> sqlite3.Connection:
    """A connection that writes nothing beside the file.

    Without transactions in its log the file is read in place, as immutable. Otherwise file and log
    are copied to a temporary folder, and the copy is read.

    Raises:
        sqlite3.Error: it is no database.
        OSError: the copy finds no room.
    """
    log = file.with_name(f"{file.name}-wal")
    if not log.exists() or log.stat().st_size == 0:
        return _connect(f"file:{quote(str(file))}?mode=ro&immutable=1")
    copied = copied_to_memory(file)
    copied.execute("PRAGMA query_only = ON")
    return copied


def copied_to_memory(file: Path) -> sqlite3.Connection:
    """A copy of the database with the transactions in its log, in this process's memory.

    Raises:
        sqlite3.Error: it is no database.
        OSError: no temporary folder has room for file and log.
    """
    log = file.with_name(f"{file.name}-wal")
    memory = _connect(":memory:")
    for position, parent in enumerate(_TEMPORARY_FOLDERS):
        is_last = position + 1 == len(_TEMPORARY_FOLDERS)
        try:
            with tempfile.TemporaryDirectory(prefix="vram-search-", dir=parent) as folder:
                copy = Path(folder) / file.name
                for part in filter(Path.exists, (file, log)):
                    shutil.copyfile(part, copy.with_name(part.name))
                on_disk = _connect(f"file:{quote(str(copy))}")
                try:
                    on_disk.backup(memory)
                finally:
                    on_disk.close()
            return memory
        except (OSError, sqlite3.OperationalError):
            if is_last:
                raise
    raise AssertionError("the loop returns or raises")


def _connect(name: str) -> sqlite3.Connection:
    return sqlite3.connect(name, uri=True, check_same_thread=False)
