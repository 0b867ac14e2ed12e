"""Workers of a study: each holds a lease on the trials that it runs, and renews it.

    worker_id = add_worker(store.engine, study.id, "host", pid)
    renew_lease(store.engine, worker_id)       # every HEARTBEAT_SECONDS
    end_worker(store.engine, worker_id)

A trial belongs to the worker that recorded its start (`TrialRecord.worker_id`); no other worker may
run it. Times are the database's own, so that clocks of machines need not agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, delete, extract, func, insert, select
from sqlalchemy import update as update_rows

from vram_search.store.database import reading, writing
from vram_search.store.read_rows import read_table
from vram_search.store.tables import trials, workers

LEASE_SECONDS = 120.0
"""A worker that has not renewed its lease for this long counts as dead."""
HEARTBEAT_SECONDS = 10.0
_UNIX_EPOCH = 2440587.5
"""Julian day of 1970-01-01."""


@dataclass(frozen=True)
class WorkerRecord:
    """One worker.

    Attributes:
        device: name of its card, or CPU; None until it has loaded the base model.
        budget_bytes: bytes that its allocator may use; None until they are known.
        started_at, expires_at: seconds since the epoch, by the database's clock.
        is_expired: the lease was not renewed in time.
    """

    id: int
    study_id: int
    host: str
    pid: int
    device: str | None
    budget_bytes: int | None
    started_at: float
    expires_at: float
    is_expired: bool


def add_worker(engine: Engine, study_id: int, host: str, pid: int) -> int:
    """Records a worker with a new lease and returns its id."""
    with writing(engine) as connection:
        now = _now(connection)
        row = insert(workers).values(
            study_id=study_id,
            host=host,
            pid=pid,
            started_at=now,
            expires_at=now + LEASE_SECONDS,
        )
        return int(connection.execute(row.returning(workers.c.id)).scalar_one())


def describe_worker(engine: Engine, worker_id: int, device: str, budget_bytes: int) -> None:
    """Records a worker's card and budget."""
    change = update_rows(workers).where(workers.c.id == worker_id)
    with writing(engine) as connection:
        connection.execute(change.values(device=device, budget_bytes=budget_bytes))


def renew_lease(engine: Engine, worker_id: int) -> bool:
    """Renews a worker's lease; False if another worker has ended it."""
    with writing(engine) as connection:
        change = update_rows(workers).where(workers.c.id == worker_id)
        expires_at = _now(connection) + LEASE_SECONDS
        return bool(connection.execute(change.values(expires_at=expires_at)).rowcount)


def has_lease(engine: Engine, worker_id: int) -> bool:
    """Returns True if a worker is recorded and its lease has not expired."""
    with reading(engine) as connection:
        query = select(workers.c.id).where(
            workers.c.id == worker_id, workers.c.expires_at >= _now(connection)
        )
        return connection.scalar(query) is not None


def end_worker(engine: Engine, worker_id: int) -> None:
    """Removes a worker: its trials without an outcome belong to nobody from now on."""
    with writing(engine) as connection:
        connection.execute(delete(workers).where(workers.c.id == worker_id))


def workers_of(engine: Engine, study_id: int | None = None) -> list[WorkerRecord]:
    """Returns the workers of a study, or of all studies, in the order of their start."""
    with reading(engine) as connection:
        now = float(connection.scalar(select(_now(connection))) or 0.0)
        own = () if study_id is None else (workers.c.study_id == study_id,)
        found = read_table(connection, workers, *own, order_by=(workers.c.id,))
    return [WorkerRecord(**values, is_expired=values["expires_at"] < now) for values in found]


def running_owners(engine: Engine, study_id: int) -> list[int | None]:
    """Returns the worker of each running trial of a study; None for one of an older version."""
    query = select(trials.c.worker_id).where(
        trials.c.study_id == study_id, trials.c.outcome.is_(None)
    )
    with reading(engine) as connection:
        return [row.worker_id for row in connection.execute(query)]


def _now(connection: Connection) -> ColumnElement[float]:
    """The database's clock, in seconds since the epoch."""
    if connection.dialect.name == "sqlite":
        days: ColumnElement[float] = func.julianday("now")
        return (days - _UNIX_EPOCH) * 86400.0
    return extract("epoch", func.clock_timestamp())  # type: ignore[return-value,unused-ignore]
