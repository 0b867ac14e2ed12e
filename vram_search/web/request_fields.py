"""Types of fields in requests: moments, numbers, and values of hyperparameters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def _text(value: Any) -> Any:
    """Returns a text that names a moment.

    Raises:
        ValueError: the value is a number, which would count as seconds since 1970.
    """
    if isinstance(value, str) and not value.strip().lstrip("+-").replace(".", "", 1).isdecimal():
        return value
    raise ValueError("write a date with a time, like 2026-11-30T22:00")


def _in_utc(moment: datetime) -> datetime:
    """Returns the moment in UTC.

    Raises:
        ValueError: UTC has no such moment.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is too far away") from None


def _no_flag(value: Any) -> Any:
    """Returns a value that is neither true nor false.

    Raises:
        ValueError: the value is true or false, which would count as 1 or 0.
    """
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


def _point_value(value: Any) -> Any:
    """Returns a value that a hyperparameter can have.

    Raises:
        ValueError: no hyperparameter has values of this kind.
    """
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if texts or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    raise ValueError("a number, a text, or a list of texts is expected")


Moment = Annotated[datetime, AfterValidator(_in_utc), BeforeValidator(_text)]
"""A date with a time, in UTC; without a zone it is by the clock of the service."""
Whole = Annotated[int, BeforeValidator(_no_flag)]
Number = Annotated[float, BeforeValidator(_no_flag)]
PointValue = Annotated[int | float | str | list[str], BeforeValidator(_point_value)]
"""The value of a hyperparameter."""
