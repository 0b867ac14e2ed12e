"""Events of the record: each is written in the transaction of the change that it reports.

A reader that remembers the id of the last event it saw misses none, whatever restarts meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text

from vram_search.store.database import reading
from vram_search.store.read_rows import read_table
from vram_search.store.tables import events

EVENT_LOCK = 8416
"""Key of PostgreSQL's advisory lock: ids become visible in the order in which they are given."""


@dataclass(frozen=True)
class EventRecord:
    """One event. A later event has a higher id.

    Attributes:
        kind: `study_created`, `study_changed`, `study_deleted`, `trial_started`, `trial_planned`,
            `trial_stage`, `trial_resumed`, `trial_skip_asked`, `trial_ended`, `point_added`, or
            `queue_changed`.
        trial: its number; None for events of a whole study.
        data: what changed, by name.
    """

    id: int
    at: datetime
    kind: str
    study: str
    trial: int | None
    data: dict[str, Any]


def append_event(
    connection: Connection, kind: str, study: str, trial: int | None = None, **data: Any
) -> None:
    """Writes an event within the connection's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": EVENT_LOCK})
    connection.execute(
        insert(events).values(at=datetime.now(UTC), kind=kind, study=study, trial=trial, data=data)
    )


def events_after(engine: Engine, last_id: int, limit: int = 500) -> list[EventRecord]:
    """Events with a higher id, in order, at most `limit`."""
    newer, order = events.c.id > last_id, (events.c.id,)
    with reading(engine) as connection:
        found = read_table(connection, events, newer, order_by=order, limit=limit)
    return [EventRecord(**values) for values in found]


def last_event_id(engine: Engine) -> int:
    """The highest id; 0 if there is no event."""
    with reading(engine) as connection:
        return int(connection.scalar(select(func.max(events.c.id))) or 0)
