"""Moments in requests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def _in_utc(moment: datetime) -> datetime:
    """
    Raises:
        ValueError: UTC has no such moment.
    """
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("it is too far away") from None


Moment = Annotated[datetime, AfterValidator(_in_utc)]
"""A date with a time, in UTC; without a zone it is by the clock of the service."""
