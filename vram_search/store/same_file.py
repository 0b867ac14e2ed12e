"""Notices that a database file, or its log, was deleted or replaced while it is open.

SQLite keeps writing into a file that no path leads to any more; the results of a night would be
lost when the process ends. NAME-wal holds the latest transactions, and through NAME-shm all
processes find them (https://www.sqlite.org/walformat.html).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vram_search.errors import StoreError

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPES = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}
"""Characters of a mount point as the kernel writes them (proc_pid_mountinfo(5))."""


@dataclass
class SameFile:
    """The identity of a database file since its first connection."""

    path: Path
    _identity: tuple[int, int] | None = field(default=None, init=False)
    _of_log: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False)

    def check(self) -> None:
        """Checks that the path still leads to the file that was opened.

        Raises:
            StoreError: another file, or none, is at the path now.
        """
        try:
            identity = _identity(self.path)
        except OSError:
            return  # the next statement reports it with its cause
        if self._identity is None:
            self._identity = identity
        if identity != self._identity:
            what = "deleted or moved" if identity is None else "replaced by another file"
            raise StoreError(
                f"database {self.path} was {what} while it was in use: nothing more can be "
                "recorded there",
                "put the file back, or start again with a new database; trials that were recorded "
                "in the other file are safe there",
            )

    def check_log(self) -> None:
        """Checks the two files of SQLite's log, which stay while a connection is open.

        Raises:
            StoreError: one was deleted or replaced.
        """
        for suffix in ("-wal", "-shm"):
            file = self.path.with_name(f"{self.path.name}{suffix}")
            try:
                identity = _identity(file)
            except OSError:
                continue
            known = self._of_log.get(file)
            if known is None and identity is not None:
                self._of_log[file] = identity
            elif known != identity:
                what = "deleted" if identity is None else "replaced"
                raise StoreError(
                    f"{file} was {what} while database {self.path} was in use: what is written "
                    "now could be lost",
                    "run again: what was recorded so far is written into the database when this "
                    "process ends",
                )


def is_mounted_alone(file: Path) -> bool:
    """Returns True if a file is a mount point, as `docker run -v search.db:/data/search.db` makes
    it. SQLite then keeps its log in another folder than a process that knows the file's own path.
    """
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not on Linux
        return False
    name = "".join(_ESCAPES.get(character, character) for character in str(file.resolve()))
    return any(mount.split()[4] == name for mount in mounts)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and file number; None if there is no file."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
