"""Limits the service's connections: how many there are, and how long one may send no request.

uvicorn keeps a connection on which no whole request arrives for ever. Without a login a stranger
could use up the files that the process may open; asyncio then writes a traceback for each try to
accept the next connection, thousands a second.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
"""Half of them may come from one address, so that others are still answered."""
SILENT_SECONDS = 20.0
"""A request's headers must arrive in this time, and at most in twice of it."""


class LimitedProtocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        own = [one for one in self.connections if self._host_of(one) == self._host_of(self)]
        if len(self.connections) > most_connections() or len(own) > most_connections() // 2:
            transport.abort()
            return
        self.loop.call_later(SILENT_SECONDS, self._close_if_silent, None)

    @staticmethod
    def _host_of(connection: Any) -> str:
        return connection.client[0] if connection.client else ""

    def _close_if_silent(self, earlier: Any) -> None:
        """Closes the connection if no request began since the last look and no answer is under way.

        Args:
            earlier: the request that was the latest then.
        """
        if self.transport.is_closing():
            return
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and self.cycle is earlier:
            self.transport.close()
        else:
            self.loop.call_later(SILENT_SECONDS, self._close_if_silent, self.cycle)


def most_connections() -> int:
    """Returns MOST_CONNECTIONS, or half of the files that this process may open if that is less."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files < 0 else min(MOST_CONNECTIONS, files // 2)
