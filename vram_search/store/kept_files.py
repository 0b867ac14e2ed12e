"""Paths in the record: relative to the database's folder of files, and never out of it.

Databases of version 0.1.0 hold absolute paths. They are read as they are, and nothing at an
absolute path is ever deleted: the database may be a copy, or come from a stranger.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath


def recorded_path(files: Path, path: str | None) -> str | None:
    """A path as the record keeps it: relative to `files` if it is in there."""
    if path is None or not Path(path).is_relative_to(files):
        return path
    return Path(path).relative_to(files).as_posix()


def actual_path(files: Path, recorded: str | None) -> str | None:
    """The path that the record means; None if a relative one leads out of `files`."""
    if recorded is None or _is_absolute(recorded):
        return recorded
    path = files / recorded
    return str(path) if _is_inside(files, path) else None


def delete_kept(files: Path, path: str) -> bool:
    """Deletes a folder inside `files`; returns False if the path leads anywhere else."""
    if not _is_inside(files, Path(path)):
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).drive)


def _is_inside(files: Path, path: Path) -> bool:
    """Follows links: a link inside `files` may lead out of it."""
    root = files.resolve()
    target = path.resolve()
    return target != root and target.is_relative_to(root)
