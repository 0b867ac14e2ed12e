"""Tells whether a process of this machine holds a lock file."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout


def lock_is_held(file: Path) -> bool:
    """Returns True if a process of this machine holds a lock file, or if nobody can tell: on a
    read-only disk, and for the file of another user."""
    lock = FileLock(file, timeout=0)
    try:
        if not file.exists():
            return False
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False
