"""Parses JSON; every fault of the text is a ParseError."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

from vram_search.parsing.parse_error import HALF_PAIR, MAX_DIGITS, TOO_DEEP, TOO_LONG, ParseError

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_COMMENT = re.compile(r'("(?:[^"\\]+|\\.)*+"?)|(?://|#)[^\n]*|/\*.*?(?:\*/|\Z)', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:[^"\\]+|\\.)*+"?)|,(?=\s*[}\]])', re.DOTALL)
"""Texts in quotes are kept: group 1. One that does not end is taken to the text's end, so that a
text is read once."""
_HALF_A_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    text: str | bytes,
    *,
    without_nonfinite: bool = False,
    half_pairs: Literal["refuse", "keep"] = "refuse",
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of a JSON document.

    Args:
        text: bytes are UTF-8.
        without_nonfinite: refuses NaN and Infinity, which Python's json writes and reads.
        half_pairs: what becomes of a text with half of a surrogate pair, which no UTF-8 file takes.
        pairs: builds a mapping from its keys and values (`json.loads`, `object_pairs_hook`).

    Raises:
        ParseError: the text is no JSON, or holds a whole number of more than MAX_DIGITS digits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = json.loads(
            text,
            parse_int=_short_int if _LONG_NUMBER.search(text) else None,
            parse_constant=_refuse_constant if without_nonfinite else None,
            object_pairs_hook=pairs,
        )
        if half_pairs == "refuse" and _HALF_A_CHARACTER.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ParseError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise ParseError(TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise ParseError(f"it is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ParseError(HALF_PAIR) from None
    except ValueError as error:
        raise ParseError(str(error)) from None
    return value


def parse_commented_json(text: str) -> Any:
    """The value of a JSON document that people keep by hand: with comments, and with commas before
    closing brackets.

    Raises:
        ParseError: as `parse_json` raises it for the text as it stands.
    """
    try:
        return parse_json(text)
    except ParseError as error:
        plain = _LAST_COMMA.sub(r"\1", _COMMENT.sub(r"\1", text))
        try:
            return parse_json(plain)
        except ParseError:
            raise error from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _short_int(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(TOO_LONG)
    return int(digits)
