"""The queue of studies: what runs, what runs next, and what was asked of it.

Every method is one transaction, so command line and service may use the queue at the same time.
This file knows rows only; `worker.queue_place` knows which processes are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine, func, insert, select, text, update

from vram_search.errors import InputError, NotFoundError, TooLateError
from vram_search.store.database import reading, writing
from vram_search.store.events import append_event
from vram_search.store.read_rows import read_table
from vram_search.store.tables import events, queue

QueueState = Literal["queued", "running", "paused", "finished", "failed", "cancelled"]
Request = Literal["pause", "stop", "cancel"]
STATES: tuple[QueueState, ...] = get_args(QueueState)
QUEUE_LOCK = 8417
"""Key of PostgreSQL's advisory lock."""
OPEN_STATES: tuple[QueueState, ...] = ("queued", "running", "paused")
"""States of entries that have not ended."""


@dataclass(frozen=True)
class QueueEntry:
    """A study's place in the queue.

    Attributes:
        position: entries run in ascending order.
        request: what a running study was asked to do: `pause` and `stop` let its running trial
            finish, `cancel` ends it at once.
        is_detached: the service runs it; otherwise the process `pid` waits for its turn itself.
        study_file: the study as YAML, with absolute paths and all defaults.
        trials: stop at so many finished trials; None: the study's own budget.
        not_before, until: the study runs between these times only.
        hours: stop so long after the start of its run, whatever the clock is set to.
        attempts: how often the service has started it.
        host, device: where it runs; the device is the GPU's UUID, or "cpu".
        message, remedy: why it ended.
        worker_id: the worker that waits or runs (`store.workers`); None until there is one.
        card_bytes: predicted bytes of the card that it takes at most; None: the whole card, or not
            known until it runs.
    """

    id: int
    study: str
    position: int
    state: QueueState
    request: Request | None
    is_detached: bool
    study_file: str
    trials: int | None
    not_before: datetime | None
    until: datetime | None
    accept_changes: bool
    idempotency_key: str | None
    attempts: int
    host: str | None
    device: str | None
    pid: int | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    message: str | None
    remedy: str | None
    worker_id: int | None
    card_bytes: int | None
    hours: float | None

    def is_due(self, now: datetime) -> bool:
        """True if its time has come: it is queued, and `not_before` has passed."""
        return self.state == "queued" and (self.not_before is None or self.not_before <= now)


class StudyQueue:
    """Reads and writes the queue; `engine` comes from `open_database`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def entries(self, states: Collection[QueueState] = OPEN_STATES) -> list[QueueEntry]:
        """Entries in these states, in the order in which they run."""
        with reading(self.engine) as connection:
            return _entries(connection, states)

    def entry(self, entry_id: int) -> QueueEntry:
        """Returns one entry.

        Raises:
            NotFoundError: the queue has no entry with this id.
        """
        with reading(self.engine) as connection:
            return _entry(connection, entry_id)

    def latest_of(self, study: str) -> QueueEntry | None:
        """The newest entry of a study, ended or not."""
        own, newest_first = queue.c.study == study, (queue.c.id.desc(),)
        with reading(self.engine) as connection:
            found = read_table(connection, queue, own, order_by=newest_first, limit=1)
        return QueueEntry(**found[0]) if found else None

    def with_key(self, idempotency_key: str) -> QueueEntry | None:
        """The entry that a request with this idempotency key has added."""
        own = queue.c.idempotency_key == idempotency_key
        with reading(self.engine) as connection:
            found = read_table(connection, queue, own)
        return QueueEntry(**found[0]) if found else None

    def first_limits(self, entry: QueueEntry) -> dict[str, Any] | None:
        """State and limits with which an entry was added, whatever has changed since.

        None: they were not recorded, by an earlier version or because the study was deleted.
        """
        own = (events.c.study == entry.study) & (events.c.kind == "queue_changed")
        with reading(self.engine) as connection:
            found = read_table(connection, events, own, order_by=(events.c.id,))
        for row in found:
            if row["data"].get("entry") == entry.id and "added_with" in row["data"]:
                return dict(row["data"]["added_with"])
        return None

    def add(
        self,
        study: str,
        study_file: str,
        *,
        is_detached: bool,
        state: QueueState = "queued",
        trials: int | None = None,
        not_before: datetime | None = None,
        until: datetime | None = None,
        hours: float | None = None,
        accept_changes: bool = False,
        idempotency_key: str | None = None,
        **owner: Any,
    ) -> QueueEntry:
        """Adds a study at the end of the queue.

        Args:
            owner: `host`, `device`, `pid` and `worker_id` of a process that runs it itself.

        Raises:
            InputError: it could never run between `not_before` and `until`.
            TooLateError: the service has this study in the queue already.
        """
        _refuse_impossible_times(not_before, until)
        limits: dict[str, Any] = {
            "trials": trials,
            "not_before": not_before,
            "until": until,
            "hours": hours,
            "accept_changes": accept_changes,
        }
        with _changing(self.engine) as connection:
            if is_detached:
                _refuse_second(connection, study)
            last = connection.scalar(select(func.max(queue.c.position))) or 0
            row = insert(queue).values(
                study=study,
                study_file=study_file,
                position=last + 1,
                state=state,
                is_detached=is_detached,
                **limits,
                idempotency_key=idempotency_key,
                attempts=0,
                created_at=datetime.now(UTC),
                **owner,
            )
            created = QueueEntry(**connection.execute(row.returning(queue)).one()._mapping)
            _report(connection, created, added_with=plain_limits(state=state, **limits))
            return created

    def claim(
        self, entry_id: int, may_start: Callable[[Sequence[QueueEntry]], bool], **values: Any
    ) -> bool:
        """Marks a queued entry as running if `may_start`, called with all open entries, is true.

        Args:
            may_start: called within the transaction, so that two processes cannot both start.
            values: `host`, `device`, `pid`, `worker_id`, `attempts`, `card_bytes`.
        """
        with _changing(self.engine) as connection:
            entries = _entries(connection, OPEN_STATES)
            own = next((entry for entry in entries if entry.id == entry_id), None)
            if own is None or own.state != "queued" or not may_start(entries):
                return False
            started = own.started_at or datetime.now(UTC)
            _change(connection, entry_id, state="running", started_at=started, **values)
            return True

    def end(
        self,
        entry_id: int,
        state: QueueState,
        message: str,
        remedy: str = "",
        *,
        of_worker: int | None = None,
    ) -> None:
        """Writes the end of a run: `finished`, `failed` or `cancelled`; or `paused`, `queued`.

        Args:
            of_worker: nothing is written if another worker has the entry by now.
        """
        ended = None if state in OPEN_STATES else datetime.now(UTC)
        with _changing(self.engine) as connection:
            entry = _entry(connection, entry_id)
            if entry.state in OPEN_STATES and of_worker in (None, entry.worker_id):
                _change(
                    connection,
                    entry_id,
                    state=state,
                    request=None,
                    pid=None,
                    worker_id=None,
                    ended_at=ended,
                    message=message,
                    remedy=remedy,
                )

    def change_worker(self, before: int, after: int) -> None:
        """Gives the entry of a worker to its new lease."""
        with _changing(self.engine) as connection:
            change = update(queue).where(queue.c.worker_id == before)
            connection.execute(change.values(worker_id=after))

    def ask(self, entry_id: int, request: Request) -> QueueEntry:
        """Asks a study to pause, stop or cancel. One that does not run changes at once.

        Raises:
            NotFoundError: the queue has no entry with this id.
            TooLateError: the study has ended, is being cancelled, or is paused already.
        """
        with _changing(self.engine) as connection:
            entry = _open_entry(connection, entry_id)
            if entry.state == "running":
                if entry.request == "cancel" != request:
                    raise TooLateError(f"study {entry.study} is being cancelled")
                _change(connection, entry_id, request=request)
            elif request == "pause":
                if entry.state == "paused":
                    raise TooLateError(f"study {entry.study} is paused already")
                _change(connection, entry_id, state="paused")
            else:
                _change(
                    connection,
                    entry_id,
                    state="cancelled",
                    ended_at=datetime.now(UTC),
                    message="it was taken out of the queue",
                )
            return _entry(connection, entry_id)

    def resume(self, entry_id: int) -> QueueEntry:
        """Queues a paused study again, at its place; takes back a `pause` of a running one.

        The service runs it from now on: the process that ran it in a terminal has ended.

        Raises:
            NotFoundError: the queue has no entry with this id.
            TooLateError: the study has ended, is not paused, or the service has it already.
        """
        with _changing(self.engine) as connection:
            entry = _open_entry(connection, entry_id)
            if entry.state == "running" and entry.request == "pause":
                _change(connection, entry_id, request=None)
            elif entry.state == "paused":
                if not entry.is_detached:
                    _refuse_second(connection, entry.study)
                changes = {"state": "queued", "is_detached": True}
                _change(connection, entry_id, attempts=0, message=None, **changes)
            else:
                raise TooLateError(f"study {entry.study} is {entry.state}, not paused")
            return _entry(connection, entry_id)

    def change(self, entry_id: int, **values: Any) -> QueueEntry:
        """Changes `trials`, `not_before`, `until` or `hours` of an entry that has not started.

        Raises:
            InputError: it could never run between the new `not_before` and `until`.
            NotFoundError: the queue has no entry with this id.
            TooLateError: the study runs or has ended.
        """
        with _changing(self.engine) as connection:
            entry = _open_entry(connection, entry_id)
            if entry.state == "running":
                raise TooLateError(
                    f"study {entry.study} is running: its times can no longer be changed",
                    "pause it first",
                )
            if not values:
                return entry
            if values.keys() & {"not_before", "until"}:
                times = {"not_before": entry.not_before, "until": entry.until, **values}
                _refuse_impossible_times(times["not_before"], times["until"])
            _change(connection, entry_id, **values)
            return _entry(connection, entry_id)

    def move(self, entry_id: int, place: int) -> list[QueueEntry]:
        """Moves an entry to a place among those that wait; 1 is next.

        Raises:
            NotFoundError: the queue has no entry with this id.
            TooLateError: the study runs or has ended.
        """
        with _changing(self.engine) as connection:
            moved = _open_entry(connection, entry_id)
            if moved.state == "running":
                raise TooLateError(f"study {moved.study} is running: it cannot be moved")
            waiting = [e for e in _entries(connection, ("queued", "paused")) if e.id != entry_id]
            waiting.insert(max(0, place - 1), moved)
            positions = sorted(entry.position for entry in waiting)
            for entry, position in zip(waiting, positions, strict=True):
                change = update(queue).where(queue.c.id == entry.id)
                connection.execute(change.values(position=position))
            _report(connection, _entry(connection, entry_id))
            return _entries(connection, OPEN_STATES)


def plain_limits(**limits: Any) -> dict[str, Any]:
    """State and limits of a new entry as JSON has them; times in UTC."""
    return {
        name: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value
        for name, value in limits.items()
    }


@contextmanager
def _changing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other change of the queue overlaps.

    SQLite has one writer at a time; on PostgreSQL a lock makes two claims wait for each other.
    """
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": QUEUE_LOCK})
        yield connection


def _entries(connection: Connection, states: Collection[QueueState]) -> list[QueueEntry]:
    order = (queue.c.position, queue.c.id)
    found = read_table(connection, queue, queue.c.state.in_(states), order_by=order)
    return [QueueEntry(**values) for values in found]


def _entry(connection: Connection, entry_id: int) -> QueueEntry:
    found = read_table(connection, queue, queue.c.id == entry_id)
    if not found:
        raise NotFoundError(
            f"the queue has no entry {entry_id}", "`vram-search queue list --all` lists them"
        )
    return QueueEntry(**found[0])


def _refuse_second(connection: Connection, study: str) -> None:
    """Refuses a study that waits for the service already.

    Raises:
        TooLateError: the service has this study in the queue already.
    """
    for other in _entries(connection, OPEN_STATES):
        if other.study == study and other.is_detached:
            raise TooLateError(
                f"study {study} is in the queue already (entry {other.id}, {other.state})",
                f"remove it first: vram-search queue remove {other.id}",
            )


def _refuse_impossible_times(not_before: datetime | None, until: datetime | None) -> None:
    """Refuses a time window in which the study could never run.

    Raises:
        InputError: `until` is over, or not after `not_before`.
    """
    if until is None:
        return
    earliest, words = datetime.now(UTC), "is over already"
    if not_before is not None and not_before > earliest:
        earliest, words = not_before, f"is not after not_before, {not_before.isoformat()}"
    if until <= earliest:
        raise InputError(f"until {until.isoformat()} {words}", "name a later time, or leave it out")


def _open_entry(connection: Connection, entry_id: int) -> QueueEntry:
    entry = _entry(connection, entry_id)
    if entry.state not in OPEN_STATES:
        raise TooLateError(
            f"study {entry.study} (entry {entry.id}) has ended: it is {entry.state}",
            "add it to the queue again; a search continues where it stopped",
        )
    return entry


def _change(connection: Connection, entry_id: int, **values: Any) -> None:
    connection.execute(update(queue).where(queue.c.id == entry_id).values(**values))
    _report(connection, _entry(connection, entry_id))


def _report(connection: Connection, entry: QueueEntry, **more: Any) -> None:
    append_event(
        connection,
        "queue_changed",
        entry.study,
        entry=entry.id,
        state=entry.state,
        request=entry.request,
        message=entry.message,
        **more,
    )
