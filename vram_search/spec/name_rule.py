"""Names of studies and of a study's base models: they name rows, folders and files.

They are apart from the study file's model, so that short commands need no pydantic.
"""

from __future__ import annotations

import re

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,63}$"
"""Valid in Python, in JSON schemas and, without its ends, in HTML, where a hyphen in a class has
to be escaped."""
NAME_FORM = "letters, digits, '.', '_' and '-', 64 at most, the first a letter or a digit"
_NAME = re.compile(NAME_PATTERN.removeprefix("^").removesuffix("$"))


def is_valid_name(text: str) -> bool:
    """True if a study or a model may have this name."""
    return _NAME.fullmatch(text) is not None
