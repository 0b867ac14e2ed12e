"""Numbers as people write them into a table: decimal commas, units, roundings."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WITH_COMMA = re.compile(r"(-?\d+),(\d+(?:[eE][-+]?\d+)?)")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2},\d{3}")
_ROUNDED = re.compile(r"^[~\u2248] ?(?=[\d.])| ?(?:(?:\u00b1|\+/-) ?[\d.,]+|\([^)]*\))$")
_RAISED = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u2212", "0123456789--"
)
"""Digits and minus signs above the line -> those on it."""
_POWER = re.compile(r"([\d.]+) ?[\u00d7\u00b7x*] ?10\^?(-?\d+)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?%")
_LONGEST = 60
"""Characters of a number or a column's name with its unit."""
_SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
}


def has_decimal_commas(cells: Iterable[str]) -> bool:
    """True if a number among the cells has a comma that cannot part thousands ("1,234" may)."""
    return any(_WITH_COMMA.fullmatch(cell) and not _THOUSANDS.fullmatch(cell) for cell in cells)


def with_point(cell: str) -> str:
    """A number with a decimal comma as one with a point; any other text stays."""
    return _WITH_COMMA.sub(r"\1.\2", cell) if _WITH_COMMA.fullmatch(cell) else cell


def plain_number(cell: str) -> str:
    """A number without its rounding or remark ("~1.3", "1.23 ± 0.01", "1.2 (best)"), with e for a
    power of ten, and a share for a percentage."""
    if len(cell) > _LONGEST:
        return cell
    cell = _ROUNDED.sub("", cell)
    if match := _PERCENT.fullmatch(cell):
        return f"{float(match[1]) / 100:.12g}"
    match = _POWER.fullmatch(cell.translate(_RAISED))
    return f"{match[1]}e{match[2]}" if match else cell


def in_seconds(cell: str, unit: str) -> str:
    """A time in seconds, if the column's unit is one of time."""
    factor = _SECONDS.get(unit.lower())
    try:
        return cell if factor is None else f"{float(cell) * factor:g}"
    except ValueError:
        return cell


def name_and_unit(header: str) -> tuple[str, str]:
    """A column's name and the unit behind it: "Time (min)" is Time and min."""
    begin = max(header.rfind("("), header.rfind("["))
    if begin > 0 and header.endswith((")", "]")):
        return header[:begin].strip(), header[begin + 1 : -1].strip()
    return header, ""
