"""Parses TOML; every fault of the text is a ParseError."""

from __future__ import annotations

import tomllib
from typing import Any

from vram_search.parsing.parse_error import TOO_DEEP, ParseError
from vram_search.units import KIB

MAX_TOML_CHARACTERS = 128 * KIB
"""Size of the largest TOML that is read. The largest file in torchtitan's repository has 5 KiB."""


def parse_toml(text: str) -> dict[str, Any]:
    """Returns the keys of a TOML document.

    Raises:
        ParseError: the text is not TOML, too long, or nests too deep.
    """
    if len(text) > MAX_TOML_CHARACTERS:
        raise ParseError(f"it has more than {MAX_TOML_CHARACTERS} characters")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ParseError(TOO_DEEP) from None
    except ValueError as error:  # TOMLDecodeError, or a date that does not exist
        raise ParseError(str(error)) from None
