"""Bytes, durations and numbers of things, as people write and read them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": TIB,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
}
_MOST_BYTES = 2**63
"""A database keeps no larger number."""
_FARTHEST_SECONDS = 100 * 365 * 86400.0
"""No calendar has the end of a forecast of millions of trials."""
_UNIT_SECONDS = {"h": 3600, "m": 60, "min": 60, "s": 1}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(h|min|m|s)\s*")


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: "1 folder", "3,000 folders"."""
    return f"{number:,} {one if number == 1 else many}"


def parse_bytes(text: str | int) -> int:
    """Bytes of "16 GiB", "500MiB", "12.5 GB" (decimal) or a plain number.

    Raises:
        ValueError: the text is not a size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].lower() not in _BYTE_UNITS:
        raise ValueError(f"{text!r} is not a size; write it like '16 GiB' or '500 MiB'")
    size = float(match[1]) * _BYTE_UNITS[match[2].lower()]
    if size >= _MOST_BYTES:
        raise ValueError(f"{text[:40] if isinstance(text, str) else text!r} is too large a size")
    return round(size)


def format_bytes(count: float | None) -> str:
    """A size for a person: "5.19 GiB", "870 MiB", "-" where unknown."""
    if count is None:
        return "-"
    if abs(count) >= TIB:
        return f"{count / TIB:.2f} TiB"
    if abs(count) >= GIB:
        return f"{count / GIB:.2f} GiB"
    if abs(count) >= MIB:
        return f"{count / MIB:.0f} MiB"
    return f"{count / KIB:.0f} KiB"


def format_small(value: float, digits: int = 1) -> str:
    """A small number such as a learning rate: "2.8e-4"."""
    return short_exponent(f"{value:.{digits}e}")


def percent(share: float, digits: int = 0) -> str:
    """A share in percent: "52 %" for 0.52."""
    return f"{100 * share:.{digits}f} %"


def short_exponent(text: str) -> str:
    """A printed number without the zero of its exponent: "2.8e-4" for "2.8e-04"."""
    return text.replace("e-0", "e-")


def format_duration(seconds: float | None) -> str:
    """A duration for a person: "2 h 10 min", "3 min 5 s", "12 s", "0.4 s", "-" where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def clock_words(moment: datetime, other: datetime) -> str:
    """A moment by this machine's clock: "07:00"; with its date if the other moment, which the
    reader knows, is a day or more away."""
    is_near = abs(moment - other) < timedelta(days=1)
    return f"{moment.astimezone():%H:%M}" if is_near else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def ago_words(moment: datetime) -> str:
    """A moment of the past as `clock_words`, for somebody who reads it now."""
    return clock_words(moment, datetime.now(UTC))


def end_words(seconds: float) -> str:
    """The moment in so many seconds, as `clock_words`; of a hundred years at most."""
    now = datetime.now(UTC)
    return clock_words(now + timedelta(seconds=min(seconds, _FARTHEST_SECONDS)), now)


def parse_duration(text: str) -> float:
    """Seconds of "30m", "1h30m", "90 s" or "2 h 10 min".

    Raises:
        ValueError: the text is no duration above 0.
    """
    pieces = _DURATION.findall(text.strip().lower())
    seconds = sum(float(count) * _UNIT_SECONDS[unit] for count, unit in pieces)
    if _DURATION.sub("", text.strip().lower()) or not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is not a duration; write it like '30m', '2h' or '1h30m'")
    return seconds
