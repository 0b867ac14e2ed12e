"""Paths and hub names in a study file: relative ones start from its folder."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationInfo

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Of a model or a data set: org/name."""


def absolute_path(value: str, info: ValidationInfo) -> Path:
    """The path that a study file means, there or not.

    Raises:
        ValueError: it cannot be looked at: no permission, too long a name, `~nobody`.
    """
    folder = Path((info.context or {}).get("folder", "."))
    try:
        path = (folder / Path(value).expanduser()).resolve()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"cannot be looked at ({error})") from None
    return path
