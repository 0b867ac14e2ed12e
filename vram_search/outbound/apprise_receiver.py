"""Sends messages through apprise: ntfy, Telegram, Slack, Discord, e-mail, webhooks, desktop.

https://github.com/caronc/apprise lists the URL of each service.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vram_search.errors import InputError
from vram_search.outbound.messages import KINDS, Message, message_of
from vram_search.outbound.receiver import Receiver, SendError
from vram_search.outbound.settings import NotifySettings
from vram_search.store import Store
from vram_search.store.events import EventRecord

INSTALL = 'pip install "vram-search[notify]"'


@dataclass(frozen=True)
class AppriseReceiver:
    """One address, read from its variable or its file each time; it is kept nowhere else.

    Args:
        name: `notify:env:VARIABLE` or `notify:file:PATH`.
        place: the variable's name or the file's path.
    """

    name: str
    place: str | Path
    occasions: Collection[str]
    kinds: tuple[str, ...] = KINDS

    def wants(self, store: Store, event: EventRecord) -> bool:
        return message_of(store, event, self.occasions) is not None

    def send(self, store: Store, event: EventRecord) -> None:
        message = message_of(store, event, self.occasions)
        if message is not None:
            self.deliver(message)

    def deliver(self, message: Message) -> None:
        """Sends a message.

        Raises:
            SendError: the address is missing or wrong, or the service did not take the message.
        """
        import apprise

        # Its log may hold the address.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        sender = apprise.Apprise()
        if not sender.add(self._address()):
            raise SendError(f"{self.name} holds no URL that apprise knows")
        kind = apprise.NotifyType.FAILURE if message.is_failure else apprise.NotifyType.SUCCESS
        if not sender.notify(body=message.body, title=message.title, notify_type=kind):
            raise SendError(f"{self.name}: the service did not take the message")

    def _address(self) -> str:
        if isinstance(self.place, str):
            text = os.environ.get(self.place, "")
        else:
            try:
                text = self.place.expanduser().read_text(encoding="utf-8")
            except (OSError, RuntimeError, UnicodeDecodeError) as error:
                raise SendError(f"{self.name} cannot be read ({type(error).__name__})") from None
        first = next(iter(text.split()), "")
        if not first:
            raise SendError(f"{self.name} is empty")
        return first


def apprise_receivers(settings: NotifySettings) -> list[Receiver]:
    """The receivers of the settings.

    Raises:
        InputError: there are some, and the package apprise is not installed.
    """
    found: list[Receiver] = [
        AppriseReceiver(f"notify:env:{name}", name, settings.on) for name in settings.url_env
    ]
    found += [
        AppriseReceiver(f"notify:file:{file}", file, settings.on) for file in settings.url_files
    ]
    if found and importlib.util.find_spec("apprise") is None:
        raise InputError("notify: needs the package apprise, which is not installed", INSTALL)
    return found
