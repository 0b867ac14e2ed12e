"""A row that could not be read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unreadable:
    """Stands in the place of the row.

    Attributes:
        message: where it stands and why it cannot be read.
    """

    message: str
