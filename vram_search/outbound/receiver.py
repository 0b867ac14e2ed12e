"""The interface of whoever is told about events: a person by a message, or a tracker."""

from __future__ import annotations

from typing import Protocol

from vram_search.store import Store
from vram_search.store.events import EventRecord


class SendError(Exception):
    """The receiver did not take an event; the text holds no secret."""


class Receiver(Protocol):
    """Gets events of these kinds, each once."""

    @property
    def name(self) -> str:
        """Its name in the outbox, without secrets."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of events that it may want."""

    def wants(self, store: Store, event: EventRecord) -> bool:
        """True if this event is sent."""

    def send(self, store: Store, event: EventRecord) -> None:
        """Sends the event.

        Raises:
            SendError: the receiver did not take it.
        """
