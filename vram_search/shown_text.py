"""Makes text safe to show: removes control characters and masks secrets.

Names, notes and messages come from imported runs, foreign databases and other people's files. An
escape sequence in them could clear a terminal or rewrite earlier lines.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

MASK = "***"
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but tab and line break, with the 8-bit escapes
    r"\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # change the direction of the text after them
)
_ALWAYS_SECRET = (
    r"[\w.-]{0,40}(?:password|passwd|passphrase|pwd|secret|credential|api[-_]?key|access[-_]?key"
    r"|private[-_]?key|(?:access|auth|api|bot|bearer|hf|hub|id|refresh|session|wandb)[-_]?token"
    r"|authorization|cookie)[\w.-]{0,40}|(?-i:[A-Z0-9_]{1,40}_TOKEN)|sslkey"
)
"""Names of which every value is a secret, wherever they stand."""
_SECRET_IN_A_URL = re.compile(
    rf"{_ALWAYS_SECRET}|[\w.-]*(?:pass(?:file)?|token|signature)[\w.-]*|sig|key|auth|jwt|session",
    re.IGNORECASE,
)
_USER_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)[^\s]+(?=@)", re.IGNORECASE)
_USER_TOKEN = re.compile(r"(\bhttps?://)[^\s:/?#@]+(?=@)", re.IGNORECASE)
_QUERY = re.compile(r"([?&;])([^\s=?&;#]+)=([^\s&;#'\"]+)")
_VALUE = r"(?:'[^']*'|\"[^\"]*\"|(?:Bearer |Basic )?[^\s,;&'\"{}\[\]]+)"
_NAMED_SECRET = re.compile(
    rf"((?<![\w.-])['\"]?(?:{_ALWAYS_SECRET})['\"]?\s*[=:]\s*){_VALUE}", re.IGNORECASE
)
_OPTION_SECRET = re.compile(rf"(--[\w-]*(?:token|password|secret|key)[ =]){_VALUE}", re.IGNORECASE)
_TOKEN = re.compile(
    r"((?<![\w.-])['\"]?token['\"]?\s*[=:]\s*['\"]?)[\w.~+/-]*\d[\w.~+/-]*(?<=[\w-]{8})"
)
"""`token = VALUE` of eight characters with a digit; "eos_token" and "per token" are no secrets."""
_BEARER = re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_KNOWN_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bxox[abeprs]-[\w-]{10,}"
    r"|\beyJ[\w-]{5,}\.[\w-]+\.[\w-]+"
)
"""Tokens of the Hub, of OpenAI, GitHub, GitLab, AWS, Slack, and JSON Web Tokens."""
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_HOOK = re.compile(
    r"(https://(?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks"
    r"|api\.telegram\.org)/)[^\s'\"]+|((?:discord|slack|tgram|ntfys?|gotifys?|pover|mailtos?)://)[^\s'\"]+",
    re.IGNORECASE,
)
"""Addresses of messages: whoever knows one may write there."""

_SUSPICIOUS = re.compile(
    r"://|pass|pwd|secret|token|credential|key|auth|cookie|[?&;]|bearer|hf_|sk-|gh[pousr]_"
    r"|github_pat|glpat|akia|xox|eyj",
    re.IGNORECASE,
)
"""Every text with a secret that is masked holds one of these; most texts hold none."""
_SECRET_KEY = re.compile(rf"{_ALWAYS_SECRET}|token", re.IGNORECASE)


def without_controls(text: str) -> str:
    """The text without control characters; tabs and line breaks stay."""
    return _CONTROLS.sub("", text)


def escaped_controls(json_text: str) -> str:
    """JSON with the control characters inside its texts as escapes; the values stay the same."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


def without_secrets(text: str) -> str:
    """The text with passwords, tokens and keys of URLs and connection strings masked."""
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    if _SUSPICIOUS.search(text) is None:
        return text
    return "\n".join(
        _masked(line) if _SUSPICIOUS.search(line) else line for line in text.split("\n")
    )


def _masked(line: str) -> str:
    if "://" in line:
        line = _HOOK.sub(rf"\1\2{MASK}", line)
        line = _USER_PASSWORD.sub(rf"\1{MASK}", line)
        line = _USER_TOKEN.sub(rf"\1{MASK}", line)
    line = _KNOWN_FORMS.sub(MASK, line)
    line = _QUERY.sub(_without_secret_parameter, line)
    for pattern in (_NAMED_SECRET, _OPTION_SECRET, _TOKEN, _BEARER):
        line = pattern.sub(rf"\1{MASK}", line)
    return line


def _without_secret_parameter(found: re.Match[str]) -> str:
    """A parameter of a URL; its name may be written with percent signs."""
    start, name, value = found.groups()
    is_secret = _SECRET_IN_A_URL.fullmatch(unquote(name))
    return f"{start}{name}={MASK if is_secret or unquote(name) == 'options' else value}"


def without_secrets_in(value: Any) -> Any:
    """A copy of a JSON value with the secrets in all of its texts masked."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {
            key: MASK
            if isinstance(inner, str) and inner and _SECRET_KEY.fullmatch(str(key))
            else without_secrets_in(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets_in(inner) for inner in value]
    return value


def shown(text: str) -> str:
    """The text as a terminal or a log may show it."""
    return without_secrets(without_controls(text))
