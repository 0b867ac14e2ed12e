"""Notices that a database file was deleted or replaced while it is open.

SQLite keeps writing into a file that no path leads to any more; the results of a night would be
lost when the process ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from vram_search.errors import StoreError


@dataclass
class SameFile:
    """The identity of a database file since its first connection."""

    path: Path
    _identity: tuple[int, int] | None = field(default=None, init=False)

    def check(self) -> None:
        """
        Raises:
            StoreError: another file, or none, is at the path now.
        """
        try:
            stat = os.stat(self.path)  # noqa: PTH116
        except FileNotFoundError:
            identity = None
        except OSError:
            return  # the next statement reports it with its cause
        else:
            identity = (stat.st_dev, stat.st_ino)
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
