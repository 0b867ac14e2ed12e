"""The service on a real database: its application in this process, or a server of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import yaml
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.conftest import start_cli, tiny_study
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from tests.report.browser.conftest import browser, chromium, running_browser
from tests.report.conftest import make_study
from vram_search.store import Store, StudyRecord
from vram_search.web.app import make_app
from vram_search.web.guard import Guard
from vram_search.web.service import Service
from vram_search.web.token import Credentials

__all__ = ["browser", "chromium", "running_browser"]

TOKEN = "a-token-of-at-least-thirty-two-characters"
HOST = "127.0.0.1:8416"


@pytest.fixture
def study(store: Store) -> StudyRecord:
    """A finished study of thirty trials."""
    return make_study(store, trials=30)


@pytest.fixture
def service(store: Store, url: str, tmp_path: Path, home: Path) -> Service:
    uploads = home / "uploads"
    folders = [tmp_path.resolve(), uploads.resolve()]
    return Service(store, url, folders, uploads.resolve(), Credentials(TOKEN))


@cache
def application() -> FastAPI:
    """The endpoints: FastAPI takes 0.2 s to build them at the first request."""
    guard = make_app(Mock(), [], None)
    assert isinstance(guard, Guard) and isinstance(guard.app, FastAPI)
    return guard.app


@pytest.fixture
def connect(service: Service) -> Callable[..., TestClient]:
    """`connect(token)` returns a client of the application; without a token it is a stranger."""
    inner = application()
    inner.state.service, inner.state.streams = service, set()
    hosts = ["127.0.0.1", "localhost"]
    app = Guard(inner, service.credentials, hosts, service.cookie, service.failures)

    def connect_(token: str = "", **headers: str) -> TestClient:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return TestClient(
            app,
            base_url=f"http://{HOST}",
            headers=headers,
            follow_redirects=False,
            raise_server_exceptions=False,
        )

    return connect_


@pytest.fixture
def client(connect: Callable[..., TestClient]) -> TestClient:
    """The owner's script."""
    return connect(TOKEN)


class Server:
    """`vram-search serve` in a process of its own, with tests/fake_trainer.py."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str) -> str:
        """Starts it and returns what it prints."""
        arguments = ("serve", "--port", self.port, "--folder", self.folder, *options)
        self.process = start_cli(*arguments, command=FAKE_TRAINER)
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if "Ctrl-C ends" in line:
                return said
        raise AssertionError(said)

    def stop(self, *, kill: bool = False) -> None:
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        self.process.communicate(timeout=60)

    @property
    def token(self) -> str:
        return (self.home / "service-token").read_text().strip()

    @cached_property
    def client(self) -> httpx.Client:
        """The owner's script; the fixture closes it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=30)

    def wait_for(self, is_so: Callable[[], Any], seconds: float = 120) -> Any:
        """Asks until the answer is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := is_so():
                return found
            time.sleep(0.1)
        raise AssertionError("it never became true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the module's own, with the data folder `home` in it; subprocesses inherit it."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VRAM_SEARCH_HOME", str(folder / "home"))
        patched.delenv("VRAM_SEARCH_DATABASE", raising=False)
        yield folder


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[tuple[Server, str]]:
    """A server that was started with these options, and what it printed."""
    server = Server(folder / "home", folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VRAM_SEARCH_HOME", str(server.home))
        for name, value in environment.items():
            patched.setenv(name, value)
        said = server.start(*options)
    yield server, said
    server.client.close()
    if server.process is not None and server.process.poll() is None:
        server.stop()


def add(server: Server, **changes: Any) -> int:
    """Puts a tiny study in the queue and returns the number of its entry."""
    text = yaml.safe_dump(tiny_study(server.folder, **changes))
    answer = server.client.post("/api/v1/studies", json={"study_file": text})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


start = partial(start_cli, command=FAKE_TRAINER)
