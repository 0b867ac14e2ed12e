"""Paths in the record: relative to the database's folder of files, and never out of it.

Databases of version 0.1.0 hold absolute paths. They are read as they are, and nothing at an
absolute path is ever deleted: the database may be a copy, or come from a stranger.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath

from vram_search.errors import InputError
from vram_search.store.location import StudyFolder

DELETABLE = ("adapters", "checkpoints", "products")
"""Folders of a study in which each trial or product run has a folder of its own."""
_WRITTEN = ("exports", "logs", "verify", "workers", "run.lock", "training.log")
_DEPTH = 3


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


def delete_kept(files: Path, path: Path | str) -> bool:
    """Deletes a folder of one trial or of one product run, `files/STUDY/KIND/FOLDER`.

    Returns False if the path leads anywhere else, also through a link: to another database, to the
    folder of a whole study, or to its exports.
    """
    root, target = files.resolve(), Path(path).resolve()
    parts = target.relative_to(root).parts if target.is_relative_to(root) else ()
    if len(parts) != _DEPTH or parts[1] not in DELETABLE:
        return False
    shutil.rmtree(target, ignore_errors=True)
    return True


def refuse_links(folder: StudyFolder) -> None:
    """Refuses to write or delete in a study's folder of which a part is elsewhere.

    The pair of a database and its folder may come from a stranger, whose link could lead to any
    folder of this machine.

    Raises:
        InputError: a link leads out of the database's folder.
    """
    root = folder.root.resolve()
    for part in (folder.path, *(folder.path / name for name in (*DELETABLE, *_WRITTEN))):
        if not part.resolve().is_relative_to(root):
            raise InputError(
                f"{part} is a link that leads out of {folder.root}, to {part.resolve()}",
                f"replace it with a folder; {folder.root} itself may be a link to a larger disk",
            )


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).drive)


def _is_inside(files: Path, path: Path) -> bool:
    """Follows links: a link inside `files` may lead out of it."""
    root = files.resolve()
    target = path.resolve()
    return target != root and target.is_relative_to(root)
