"""The outbox: which event of the record was passed on to which receiver.

A claim is written before anything is sent, so that two processes, or one before and one after a
restart, never send an event twice. A failure that the receiver reported is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Engine, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from vram_search.store.database import reading, writing
from vram_search.store.events import EventRecord
from vram_search.store.read_rows import read_table
from vram_search.store.tables import events, outbox

MOST_ATTEMPTS = 5
RETRY_SECONDS = 30.0
"""Wait before the second attempt; it doubles with each further one."""
_LONGEST_ERROR = 300


def start_receiver(engine: Engine, receiver: str) -> None:
    """Lets a new receiver get the events from now on; a known one goes on where it stopped."""
    known = select(outbox.c.event_id).where(outbox.c.receiver == receiver).limit(1)
    with writing(engine) as connection:
        if connection.scalar(known) is None:
            last = int(connection.scalar(select(func.max(events.c.id))) or 0)
            now = datetime.now(UTC)
            row = insert(outbox).values(
                receiver=receiver, event_id=last, attempts=0, claimed_at=now, sent_at=now
            )
            connection.execute(row)


def claim_event(
    engine: Engine,
    receiver: str,
    kinds: Collection[str],
    is_wanted: Callable[[EventRecord], bool],
    after: int = 0,
) -> EventRecord | None:
    """Claims the next event for a receiver, or one that failed before; None if there is none.

    Args:
        receiver: a name without secrets; `start_receiver` was called for it.
        is_wanted: tells which events of these kinds the receiver gets.
        after: events up to this id are known not to be wanted.
    """
    with reading(engine) as connection:
        last = connection.scalar(
            select(func.max(outbox.c.event_id)).where(outbox.c.receiver == receiver)
        )
        newer = events.c.id > max(int(last or 0), after)
        are_wanted, order = events.c.kind.in_(kinds), (events.c.id,)
        rows = read_table(connection, events, newer, are_wanted, order_by=order)
        retry = connection.execute(
            select(outbox.c.event_id, outbox.c.attempts)
            .where(outbox.c.receiver == receiver, _is_due(datetime.now(UTC)))
            .order_by(outbox.c.event_id)
            .limit(1)
        ).one_or_none()
    if retry is not None:
        again = _claim_again(engine, receiver, retry.event_id, retry.attempts)
        if again is not None:
            return again
    wanted = (EventRecord(**values) for values in rows)
    return next((e for e in wanted if is_wanted(e) and _claim(engine, receiver, e.id)), None)


def _is_due(now: datetime) -> ColumnElement[bool]:
    """True for an attempt whose time has come, or lies so far ahead that the clock was set back."""
    longest = timedelta(seconds=RETRY_SECONDS * 2**MOST_ATTEMPTS)
    return or_(outbox.c.retry_at <= now, outbox.c.retry_at > now + longest)


def record_sent(engine: Engine, receiver: str, event_id: int) -> None:
    """Records that a receiver got an event."""
    _record(engine, receiver, event_id, sent_at=datetime.now(UTC), error=None)


def record_failure(engine: Engine, receiver: str, event_id: int, error: str) -> None:
    """Records that sending failed; the event is sent again, MOST_ATTEMPTS times in all.

    Args:
        error: without secrets.
    """
    query = select(outbox.c.attempts).where(_own(receiver, event_id))
    with reading(engine) as connection:
        attempts = int(connection.scalar(query) or 0)
    wait = timedelta(seconds=RETRY_SECONDS * 2 ** (attempts - 1))
    retry_at = datetime.now(UTC) + wait if attempts < MOST_ATTEMPTS else None
    _record(engine, receiver, event_id, retry_at=retry_at, error=error[:_LONGEST_ERROR])


def _claim(engine: Engine, receiver: str, event_id: int) -> bool:
    row = insert(outbox).values(
        receiver=receiver, event_id=event_id, attempts=1, claimed_at=datetime.now(UTC)
    )
    try:
        with writing(engine) as connection:
            connection.execute(row)
    except IntegrityError:  # another process was faster
        return False
    return True


def _claim_again(engine: Engine, receiver: str, event_id: int, attempts: int) -> EventRecord | None:
    change = update(outbox).where(_own(receiver, event_id), outbox.c.attempts == attempts)
    with writing(engine) as connection:
        changed = connection.execute(
            change.values(attempts=attempts + 1, retry_at=None, claimed_at=datetime.now(UTC))
        )
        found = read_table(connection, events, events.c.id == event_id)
    return EventRecord(**found[0]) if changed.rowcount and found else None


def _own(receiver: str, event_id: int) -> ColumnElement[bool]:
    return and_(outbox.c.receiver == receiver, outbox.c.event_id == event_id)


def _record(engine: Engine, receiver: str, event_id: int, **values: object) -> None:
    with writing(engine) as connection:
        connection.execute(update(outbox).where(_own(receiver, event_id)).values(**values))
