"""Column types that keep two promises: no nan or inf is ever stored, and times are UTC."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double
from sqlalchemy.types import TypeDecorator


def without_nonfinite(value: Any) -> Any:
    """A copy of a JSON value in which nan and inf, at any depth, are None.

    JSON has no word for them: PostgreSQL refuses them and a browser fails to parse them.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nonfinite(item) for item in value]
    return value


class FiniteFloat(TypeDecorator[float]):
    """A double; nan and inf are stored as NULL, so that no comparison ever meets them."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return value if value is not None and math.isfinite(value) else None


class FiniteJson(TypeDecorator[Any]):
    """JSON text; None becomes SQL NULL, and nan and inf inside are null."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return without_nonfinite(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A time zone aware time in, UTC out; SQLite itself keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
