"""Makes text safe to show: removes control characters and masks secrets.

Names, notes and messages come from imported runs, foreign databases and other people's files. An
escape sequence in them could clear a terminal or rewrite earlier lines.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but tab and line break, with the 8-bit escapes
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # change the direction of the text after them
)
_SECRET_NAME = (
    r"[\w.-]*(?:pass(?:word|wd|phrase|file)?|pwd|secret|token|credential|signature|api[-_]?key"
    r"|access[-_]?key)[\w.-]*|sig|key"
)
_USER_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)[^\s]+(?=@)", re.IGNORECASE)
_USER_TOKEN = re.compile(r"(\bhttps?://)[^\s:/?#@]+(?=@)", re.IGNORECASE)
_QUERY_SECRET = re.compile(rf"([?&;](?:{_SECRET_NAME})=)[^\s&;#'\"]+", re.IGNORECASE)
_KEYWORD_SECRET = re.compile(
    r"(\b(?:ssl)?(?:password|passwd|passphrase|secret|api[-_]?key|access[-_]?token)\s*=\s*)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)",
    re.IGNORECASE,
)


def without_controls(text: str) -> str:
    """The text without control characters; tabs and line breaks stay."""
    return _CONTROLS.sub("", text)


def escaped_controls(json_text: str) -> str:
    """JSON with the control characters inside its texts as escapes; the values stay the same."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


def without_secrets(text: str) -> str:
    """The text with passwords, tokens and keys of URLs and connection strings masked."""
    if "=" not in text and "@" not in text:
        return text
    text = _USER_PASSWORD.sub(rf"\1{MASK}", text)
    text = _USER_TOKEN.sub(rf"\1{MASK}", text)
    text = _QUERY_SECRET.sub(rf"\1{MASK}", text)
    return _KEYWORD_SECRET.sub(rf"\1{MASK}", text)


def without_secrets_in(value: Any) -> Any:
    """A copy of a JSON value with the secrets in all of its texts masked."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: without_secrets_in(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_secrets_in(inner) for inner in value]
    return value


def shown(text: str) -> str:
    """The text as a terminal or a log may show it."""
    return without_secrets(without_controls(text))
