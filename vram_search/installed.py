"""Versions of installed packages, read from the names of their folders, and how to add one.

`importlib.metadata` answers the same, but importing it takes longer than a whole estimate.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path

_FOLDER = re.compile(r"(.+?)-([^-]+)(?:-py[^-]*)?\.(?:dist|egg)-info")
_PIP_INSTALL = re.compile(r"(?<!-m )\bpip install\b")
"""Not `python -m pip install`, which names its environment."""


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


def in_this_environment(text: str) -> str:
    """Replaces `pip install` in a message where another command installs into this environment:
    those of `uv tool` have no pip, and those of `pipx` are not on the path."""
    if Path(sys.prefix, "uv-receipt.toml").exists():
        command = f"uv pip install --python {sys.prefix}"
    elif Path(sys.prefix, "pipx_metadata.json").exists():
        command = f"pipx runpip {Path(sys.prefix).name} install"
    else:
        return text
    return _PIP_INSTALL.sub(lambda _: command, text)
