"""A run's place in the queue: it waits for the card, and obeys what the queue asks of it.

A run holds its study's lock file while it waits and while it runs. The lock tells whether the
process of a queue entry is alive, also after a crash: the operating system releases it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout

from vram_search.errors import StoreError, TooLateError, VramSearchError
from vram_search.gpu import open_reader
from vram_search.spec import StudySpec
from vram_search.store import Store
from vram_search.store.kept_files import refuse_links
from vram_search.store.location import StudyFolder, service_lock, study_folder
from vram_search.store.queue import QueueEntry, QueueState, StudyQueue
from vram_search.store.workers import has_lease
from vram_search.units import ago_words
from vram_search.worker.lock_file import lock_is_held

if TYPE_CHECKING:  # it imports Optuna, and a light installation lists the queue
    from vram_search.worker.card_share import CardPart

POLL_SECONDS = 1.0
LOCK_SECONDS = 1.0
"""A check by `is_alive` may hold a lock for a moment."""
MOST_ATTEMPTS = 3
"""Times that the service starts a study whose process keeps dying."""
ENDS: dict[str, tuple[QueueState, str]] = {
    "pause": ("paused", "it was paused; `vram-search queue resume` hands it to the service"),
    "stop": ("finished", "it was stopped after its running trial"),
}
"""How a run ends that was asked to, by request."""


@contextlib.contextmanager
def study_locked(folder: StudyFolder) -> Iterator[None]:
    """Allows one run per study, so trials that the record marks as running are known to be dead.

    Raises:
        TooLateError: another process runs the study, or waits to run it.
        InputError: a link leads out of the database's folder.
    """
    refuse_links(folder)
    folder.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise TooLateError(
            f"study {folder.study} is being run by another process",
            "wait for it, or end it; `vram-search top` shows how far it is, and `vram-search "
            "worker` joins it with another card",
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class QueuePlace:
    """The queue entry of the run in this process.

    Args:
        url: URL of the database.
        device: UUID of the GPU, or "cpu".
        part: what the study takes of the card; None: the whole card.

    Attributes:
        neighbour_bytes: predicted bytes of the studies that ran on the card when this one started.
    """

    queue: StudyQueue
    entry_id: int
    url: str
    device: str
    worker_id: int | None = None
    part: CardPart | None = None
    neighbour_bytes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, note: Callable[[str], None], *, beside: bool) -> None:
        """Returns when this run may use the card; reports who holds it until then.

        Args:
            beside: True to start at once, beside whatever runs.
        """
        told = ""
        while True:
            sweep(self.queue, self.url, self.entry_id)
            own = self.queue.entry(self.entry_id)
            if own.state != "queued":  # paused or cancelled meanwhile
                raise KeyboardInterrupt
            ahead = ""

            def may_start(entries: Sequence[QueueEntry]) -> bool:
                nonlocal ahead
                ahead = "" if beside else self._who_is_ahead(entries)
                self.neighbour_bytes = sum(
                    e.card_bytes or 0 for e in running_on(entries, self.device)
                )
                return not ahead

            attempts = own.attempts + own.is_detached
            owner: dict[str, Any] = {"host": platform.node(), "device": self.device}
            owner |= {"pid": os.getpid(), "worker_id": self.worker_id}
            owner["card_bytes"] = self.part and self.part.bytes
            if self.queue.claim(self.entry_id, may_start, attempts=attempts, **owner):
                return
            if ahead and ahead != told:
                note(f"{ahead}; waiting for it (`vram-search queue` shows the queue)")
                told = ahead
            time.sleep(POLL_SECONDS)

    def why_over(self) -> str:
        """The reason why the queue ends this run after its running trial; empty if it goes on."""
        request = self.queue.entry(self.entry_id).request
        return ENDS[request][1] if request in ENDS else ""

    def watch_for_cancel(self) -> None:
        """Starts a thread that interrupts this run, as Ctrl-C does, once it is cancelled."""
        threading.Thread(target=self._watch, name="queue-cancel", daemon=True).start()

    def end(self, why: str) -> None:
        """Records the regular end of the run."""
        self._ended.set()
        entry = self.queue.entry(self.entry_id)
        state, message = ENDS.get(entry.request or "", ("finished", why))
        self.queue.end(self.entry_id, state, message)

    def end_by(self, error: BaseException) -> None:
        """Records the end of the run by an error or an interruption.

        A study of the service that was interrupted, but not cancelled, is queued again: the
        machine shuts down, perhaps.
        """
        self._ended.set()
        entry = self.queue.entry(self.entry_id)
        if entry.state == "paused":
            return
        if isinstance(error, KeyboardInterrupt):
            waits = entry.is_detached and entry.request != "cancel"
            state: QueueState = "queued" if waits else "cancelled"
            self.queue.end(self.entry_id, state, "interrupted; finished trials are kept")
        elif isinstance(error, VramSearchError):
            self.queue.end(self.entry_id, "failed", error.message, error.remedy)
        else:
            self.queue.end(self.entry_id, "failed", f"{type(error).__name__}: {error}")

    def _who_is_ahead(self, entries: Sequence[QueueEntry]) -> str:
        """Names the study that holds the card, or one that this run lets go first.

        The service has chosen a study of its own already: only the card counts for that.
        """
        now, host = datetime.now(UTC), platform.node()
        running = running_on(entries, self.device)
        if running and (self.part is None or not self.part.fits_beside(running)):
            first = running[0]
            since = ago_words(first.started_at or now)
            return f"study {first.study} holds the card since {since} (process {first.pid})"
        before = takewhile(lambda entry: entry.id != self.entry_id, entries)
        is_detached = any(e.id == self.entry_id and e.is_detached for e in entries)
        for entry in () if is_detached else before:
            if entry.is_due(now) and (
                service_is_alive(self.url) if entry.is_detached else entry.host == host
            ):
                return f"study {entry.study} is next in the queue"
        return ""

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            with contextlib.suppress(StoreError):
                if self.queue.entry(self.entry_id).request == "cancel":
                    interrupt_main_thread()
                    return


@contextlib.contextmanager
def take_place(
    store: Store,
    url: str,
    study: StudySpec,
    note: Callable[[str], None],
    *,
    entry_id: int | None = None,
    beside: bool = False,
    worker_id: int | None = None,
) -> Iterator[QueuePlace]:
    """Waits for the card and holds it; records in the queue how the run ended.

    Args:
        entry_id: the entry that the service has for this run; None adds one.
        beside: True to start at once, beside whatever runs.
        worker_id: of this process among the workers of the study.
    """
    queue, reader = StudyQueue(store.engine), open_reader()
    device = "cpu" if reader is None else reader.device().uuid
    if entry_id is None:
        owner: dict[str, Any] = {"host": platform.node(), "device": device, "pid": os.getpid()}
        owner["worker_id"] = worker_id
        added = queue.add(study.study, study_yaml(study), is_detached=False, **owner)
        entry_id = added.id
    if reader is None:
        part = None
    else:
        from vram_search.worker.card_share import card_part

        part = card_part(study, reader.device())
    place = QueuePlace(queue, entry_id, url, device, worker_id, part)
    try:
        place.wait(note, beside=beside)
        place.watch_for_cancel()
        yield place
    except BaseException as error:
        with contextlib.suppress(StoreError):  # the error that ends the run says more
            place.end_by(error)
        raise


def running_on(entries: Sequence[QueueEntry], device: str) -> list[QueueEntry]:
    """Returns the entries that run on a card of this machine.

    Args:
        device: UUID of the GPU, or "cpu".
    """
    here = platform.node(), device
    return [e for e in entries if e.state == "running" and (e.host, e.device) == here]


def study_yaml(study: StudySpec) -> str:
    """The study as YAML with absolute paths and all defaults, as the queue keeps it.

    The database is left out: its URL may hold a password, and the queue is in it.
    """
    settings = study.model_dump(mode="json", exclude={"database"})
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def is_alive(queue: StudyQueue, url: str, entry: QueueEntry) -> bool:
    """Returns True if the process of an entry lives.

    The lock of its worker tells, or that of its study if it has no worker yet. A worker whose lock
    file is not here belongs to another machine of the same name, such as a container: its lease
    tells.
    """
    folder = study_folder(url, entry.study)
    if entry.worker_id is None:
        return lock_is_held(folder.lock)
    lock = folder.worker_lock(entry.worker_id)
    return lock_is_held(lock) if lock.exists() else has_lease(queue.engine, entry.worker_id)


def service_is_alive(url: str) -> bool:
    """Returns True if a service of this machine works on this database."""
    return lock_is_held(service_lock(url))


def sweep(queue: StudyQueue, url: str, own_entry: int | None = None) -> None:
    """Corrects entries of this machine whose process has died.

    A study of the service is queued again, up to MOST_ATTEMPTS times.

    Args:
        own_entry: the caller's entry. The caller holds its study's lock, so the process of any
            other entry of that study is dead, unless it is a worker.
    """
    entries = queue.entries()
    own = next((entry.study for entry in entries if entry.id == own_entry), None)
    for entry in entries:
        if entry.host != platform.node() or entry.state == "paused" or entry.pid is None:
            continue
        can_live = entry.study != own or entry.worker_id is not None
        if entry.id == own_entry or (can_live and is_alive(queue, url, entry)):
            continue
        end = partial(queue.end, entry.id, of_worker=entry.worker_id)
        if entry.is_detached and entry.request in ENDS:
            end(*ENDS[entry.request])
        elif entry.is_detached and entry.request is None and entry.attempts < MOST_ATTEMPTS:
            end("queued", f"its process {entry.pid} died; it is started again")
        elif entry.request == "cancel" or entry.state == "queued":
            end("cancelled", "its process has ended")
        else:
            end(
                "failed",
                f"its process {entry.pid} died without a report",
                "see the study's log; the search continues if it is run or queued again",
            )


def interrupt_main_thread() -> None:
    """Raises KeyboardInterrupt there, by the signal for which the run has a handler."""
    is_handled = callable(signal.getsignal(signal.SIGTERM))
    number = signal.SIGTERM if is_handled else signal.SIGINT
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        assert main is not None, "the main thread runs"
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
