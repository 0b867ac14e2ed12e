"""Versions of installed packages, read from the names of their folders.

`importlib.metadata` answers the same, but importing it takes longer than a whole estimate.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path

_FOLDER = re.compile(r"(.+?)-([^-]+)(?:-py[^-]*)?\.(?:dist|egg)-info")


def installed_version(package: str) -> str:
    """Returns a package's version; empty if it is not installed."""
    return _versions(tuple(sys.path)).get(_normalised(package), "")


@lru_cache(maxsize=4)
def _versions(folders: tuple[str, ...]) -> dict[str, str]:
    """Versions by package. The first folder of `sys.path` that holds a package counts."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = [path.name for path in Path(folder or ".").iterdir()]
        except OSError:  # not there, or a zip file
            continue
        for name in names:
            if match := _FOLDER.fullmatch(name):
                found.setdefault(_normalised(match[1]), match[2])
    return found


def _normalised(package: str) -> str:
    """The name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()
