"""Delivers events to the receivers of this machine, in threads that nothing else waits for."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vram_search.errors import StoreError
from vram_search.outbound.apprise_receiver import apprise_receivers
from vram_search.outbound.receiver import Receiver, SendError
from vram_search.outbound.settings import load_settings
from vram_search.outbound.trackers import tracker_receivers
from vram_search.store import Store
from vram_search.store.events import last_event_id
from vram_search.store.outbox import claim_event, record_failure, record_sent, start_receiver

POLL_SECONDS = 2.0
CLOSING_SECONDS = 30.0
"""The end of a run waits this long for its last messages."""


@dataclass
class Delivery:
    """Passes the events of a database on; run and service may both do it at once.

    Args:
        note: told about each failure, once for each receiver.
    """

    store: Store
    receivers: Sequence[Receiver]
    note: Callable[[str], None]
    _stop: threading.Event = field(default_factory=threading.Event)
    _seen: dict[str, int] = field(default_factory=dict)
    _failed: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Delivers until `stop` is set, and once more after it."""
        while True:
            is_last = self._stop.wait(POLL_SECONDS)
            with contextlib.suppress(StoreError):  # the run itself reports a fault of the database
                self.deliver_due()
            if is_last:
                return

    def stop(self) -> None:
        """Ends `run` after a last round."""
        self._stop.set()

    def deliver_due(self) -> int:
        """Sends every event that is due, and returns how many were taken."""
        return sum(self._deliver(receiver) for receiver in self.receivers)

    def _deliver(self, receiver: Receiver) -> int:
        engine, count = self.store.engine, 0
        newest = last_event_id(engine)
        while True:
            event = claim_event(
                engine,
                receiver.name,
                receiver.kinds,
                lambda event: receiver.wants(self.store, event),
                self._seen.get(receiver.name, 0),
            )
            if event is None:
                self._seen[receiver.name] = newest
                return count
            try:
                receiver.send(self.store, event)
            except Exception as error:  # whatever a receiver does must not hurt the night
                said = str(error) if isinstance(error, SendError) else type(error).__name__
                record_failure(engine, receiver.name, event.id, said)
                self._report(receiver, said)
            else:
                record_sent(engine, receiver.name, event.id)
                count += 1

    def _report(self, receiver: Receiver, said: str) -> None:
        if receiver.name not in self._failed:
            self._failed.add(receiver.name)
            self.note(f"{receiver.name} did not get the message: {said}; the search goes on")


@contextlib.contextmanager
def delivering(store: Store, note: Callable[[str], None]) -> Iterator[None]:
    """Delivers the events of a database meanwhile, as config.yaml says.

    Raises:
        InputError: config.yaml is faulty, or names a package that is not installed.
    """
    settings = load_settings()
    receivers = [*apprise_receivers(settings.notify), *tracker_receivers(settings.trackers)]
    if not receivers:
        yield
        return
    for receiver in receivers:
        start_receiver(store.engine, receiver.name)
    # A thread for each: one that hangs holds up no other.
    deliveries = [Delivery(store, [receiver], note) for receiver in receivers]
    threads = [threading.Thread(target=one.run, name="outbound", daemon=True) for one in deliveries]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for delivery in deliveries:
            delivery.stop()
        end = time.monotonic() + CLOSING_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
