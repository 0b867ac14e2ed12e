"""Paths in a study file. Relative paths start at the folder of the file."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationInfo

from vram_search.errors import reason_of


def absolute_path(value: str, info: ValidationInfo) -> Path:
    """Returns the absolute path for a path in a study file; the file need not exist.

    Raises:
        ValueError: the path cannot be checked: no permission, a name that is too long, `~nobody`.
    """
    folder = Path((info.context or {}).get("folder", "."))
    try:
        path = (folder / Path(value).expanduser()).resolve()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot be checked ({reason_of(error)})") from None
    return path
