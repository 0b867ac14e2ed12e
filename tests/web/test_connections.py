"""Connections that send nothing do not keep others from the service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import uvicorn
from uvicorn.server import ServerState

from vram_search.web import connections
from vram_search.web.connections import SILENT_SECONDS, LimitedProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class Loop:
    """An event loop whose time stands still: what is due is called by hand."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, seconds: float, function: Callable[..., None], *given: Any) -> Mock:
        if seconds == SILENT_SECONDS:  # the others are uvicorn's
            self.due.append(lambda: function(*given))
        return Mock()

    def create_task(self, coroutine: Any, **options: Any) -> Mock:
        coroutine.close()
        return Mock()

    def pass_time(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


@pytest.fixture
def loop() -> Loop:
    return Loop()


async def application(scope: object, receive: object, send: object) -> None:
    raise AssertionError("tasks of this loop do not run")


@pytest.fixture
def connection(loop: Loop) -> LimitedProtocol:
    config = uvicorn.Config(application, http=LimitedProtocol, ws="none", lifespan="off")
    return LimitedProtocol(config, ServerState(), {}, loop)  # type: ignore[arg-type]


def opened(connection: LimitedProtocol) -> Mock:
    transport = Mock(get_extra_info=Mock(return_value=None))
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    return transport


@pytest.mark.parametrize("sent", [b"", REQUEST[:-2]])
def test_connection_without_a_whole_request_is_closed(
    connection: LimitedProtocol, loop: Loop, sent: bytes
) -> None:
    transport = opened(connection)
    if sent:
        connection.data_received(sent)
    loop.pass_time()
    transport.close.assert_called_once()


def test_long_answer_is_not_cut_off_and_half_a_second_request_is(
    connection: LimitedProtocol, loop: Loop
) -> None:
    transport = opened(connection)
    connection.data_received(REQUEST)
    for _ in range(3):
        loop.pass_time()
    transport.close.assert_not_called()
    connection.cycle.response_complete = True
    connection.data_received(REQUEST[:-2])
    loop.pass_time()
    transport.close.assert_called_once()


def test_connection_beyond_the_limit_is_refused(
    connection: LimitedProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 0)
    opened(connection).abort.assert_called_once()


def test_one_address_does_not_take_all_connections(
    connection: LimitedProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 4)
    others: Any = [Mock(client=("192.0.2.1", port)) for port in (1, 2)]
    connection.connections.update(others)
    opened(connection).abort.assert_not_called()
    for other in others:
        other.client = None  # as this connection's own: an address that is not known
    opened(connection).abort.assert_called_once()


def test_limit_leaves_files_for_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for files, most in ((64, 32), (4096, 256), (-1, 256)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert connections.most_connections() == most
