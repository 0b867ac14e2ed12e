"""`vram-search serve` in a process of its own: queue, restarts, events."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
import yaml

from tests.conftest import tiny_study
from tests.report.conftest import make_study
from tests.web.conftest import Server, add, serving, start
from vram_search.errors import InputError
from vram_search.store import Store, open_store, sqlite_url
from vram_search.web import api_system
from vram_search.web.serve import Address, listen

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A service that runs what is in its queue."""
    with serving(folder) as (one, _):
        yield one


def entry_of(server: Server, entry: int) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get(f"/api/v1/queue/{entry}").json()
    return found


def wait_for_state(server: Server, entry: int, state: str) -> None:
    server.wait_for(lambda: entry_of(server, entry)["state"] == state)


@contextmanager
def events(server: Server, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of the stream that have an id."""
    with server.client.stream("GET", "/api/v1/events", headers=headers, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()

        def parsed() -> Iterator[dict[str, Any]]:
            for line in lines:
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "id" in event:
                        yield event

        yield parsed()


@dataclass(frozen=True)
class Interrupted:
    """A service was killed while a study ran, and was started again."""

    address: str
    token: str
    said: tuple[str, str]
    """Lines printed at the first and at the second start."""
    pids: tuple[int, int]
    """The study's process before and after."""
    events: list[dict[str, Any]]
    """Those of a reader that came back after the first three."""
    trials: list[dict[str, Any]]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    with serving(folder, STAGE_SECONDS="1") as (server, first):
        with events(server) as stream:
            entry = add(server, budget={"trials": 3})
            seen = [next(stream) for _ in range(3)]
        running = server.wait_for(lambda: entry_of(server, entry)["pid"])
        server.stop(kill=True)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("VRAM_SEARCH_HOME", str(server.home))
            second = server.start()
        again = entry_of(server, entry)
        assert again["state"] == "running"
        with events(server, **{"Last-Event-ID": str(seen[-1]["id"])}) as stream:
            for event in stream:
                seen.append(event)
                if event["kind"] == "queue_changed" and event["data"]["state"] == "finished":
                    break
        trials = server.client.get("/api/v1/studies/tiny/trials").json()["trials"]
        pids = (running, again["pid"])
        return Interrupted(server.address, server.token, (first, second), pids, seen, trials)


def test_study_goes_on_while_the_service_is_killed_and_started_again(
    interrupted: Interrupted,
) -> None:
    before, after = interrupted.pids
    assert before == after
    assert [trial for trial in interrupted.trials if trial["outcome"] == "lost"] == []
    numbers = [trial["number"] for trial in interrupted.trials]
    assert len(set(numbers)) == len(numbers) == 3


def test_reader_that_comes_back_misses_no_event(interrupted: Interrupted) -> None:
    seen = interrupted.events
    first = seen[0]["id"]
    assert [event["id"] for event in seen] == list(range(first, first + len(seen)))
    kinds = [event["kind"] for event in seen if event["study"] == "tiny"]
    assert kinds[0] == "queue_changed"
    assert kinds.count("trial_ended") >= 3
    assert kinds.count("study_created") == 1


def test_link_is_printed_at_the_first_start_alone(interrupted: Interrupted) -> None:
    first, second = interrupted.said
    assert f"{interrupted.address}/?token={interrupted.token}" in first
    assert interrupted.token not in second


def test_link_is_printed_on_demand(
    server: Server, folder: Path, vram_search_without_training: Cli
) -> None:
    done = serve_in_this_process(server, vram_search_without_training, "--link")
    assert done.stdout.strip() == f"{server.address}/?token={server.token}"


def serve_in_this_process(
    server: Server, cli: Cli, *options: object
) -> subprocess.CompletedProcess[str]:
    """Calls `serve` with the server's data folder and port; it is refused before it listens."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VRAM_SEARCH_HOME", str(server.home))
        return cli("serve", "--port", server.port, *options)


def test_studies_run_one_after_the_other(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the command line and two of the service share the queue."""
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(tiny_study(folder, study="own", budget={"trials": 1})))
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(server.home))
    monkeypatch.setenv("STAGE_SECONDS", "2")
    process = start("run", file)
    server.wait_for(lambda: server.client.get("/api/v1/queue").json()["entries"])
    add(server, study="a", budget={"trials": 2})
    last = add(server, study="b", budget={"trials": 1})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    wait_for_state(server, last, "finished")
    entries = server.client.get("/api/v1/queue?ended=true").json()["entries"]
    own, a, b = ({e["study"]: e for e in entries}[name] for name in ("own", "a", "b"))
    assert a["state"] == "finished"
    assert a["message"] == "2 trials are finished"
    assert a["attempts"] == 1
    assert own["ended_at"] <= a["started_at"] <= a["ended_at"] <= b["started_at"]
    assert (own["is_detached"], a["is_detached"]) == (False, True)
    best = server.client.get("/api/v1/studies/a/best").json()
    assert best["trial"]["outcome"] == "complete"


def test_study_that_cannot_start_fails_with_message_and_remedy(server: Server) -> None:
    file = server.home / "vram-search.db"
    with closing(open_store(sqlite_url(file), create=False)) as store:
        make_study(store, trials=3)
    changed = add(server, study="td-010", budget={"trials": 2})
    wait_for_state(server, changed, "failed")
    failed = entry_of(server, changed)
    assert "study td-010" in failed["message"]
    assert failed["remedy"]


def test_study_whose_process_was_killed_continues_until_it_is_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path, HELD_TRIALS="0,1,2") as (server, _):
        entry = add(server, budget={"trials": 3})
        path = "/api/v1/studies/tiny/trials?outcome=running"
        server.wait_for(lambda: server.client.get(path).json().get("trials"))
        os.kill(entry_of(server, entry)["pid"], 9)
        server.wait_for(lambda: entry_of(server, entry)["attempts"] == 2)
        wait_for_state(server, entry, "running")
        assert server.client.post("/api/v1/studies/tiny/cancel").status_code == 200
        wait_for_state(server, entry, "cancelled")


def test_quiet_stream_sends_heartbeats(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    assert 0 < api_system.HEARTBEAT_SECONDS <= 30
    monkeypatch.setattr(api_system, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(api_system, "POLL_SECONDS", 0.01)
    request = Mock(is_disconnected=AsyncMock(return_value=False))
    request.app.state.streams, request.app.state.is_ending = set(), False

    async def first_two() -> list[str]:
        stream = api_system._stream(request, store, 0)
        return [await anext(stream), await anext(stream)]

    assert asyncio.run(first_two()) == ["retry: 2000\n\n", ": still here\n\n"]


def test_large_headers_are_refused(server: Server) -> None:
    answer = httpx.get(server.address, headers={"X-Large": "x" * 20_000})
    assert answer.status_code == 431


def test_second_service_on_a_database_is_refused(
    server: Server, vram_search_without_training: Cli
) -> None:
    done = serve_in_this_process(server, vram_search_without_training, "--port", 1 + server.port)
    assert done.returncode == 2
    assert "another service works on this database" in done.stdout


@pytest.mark.parametrize(
    ("host", "printed", "url"),
    [
        ("::1", "[::1]:8416", "http://[::1]:8416/"),
        ("[::1]", "[::1]:8416", "http://[::1]:8416/"),
        ("LOCALHOST", "localhost:8416", "http://localhost:8416/"),
        ("http://127.0.0.1:8416/", "127.0.0.1:8416", "http://127.0.0.1:8416/"),
        ("0.0.0.0", "0.0.0.0:8416", "http://127.0.0.1:8416/"),
        ("::", "[::]:8416", "http://127.0.0.1:8416/"),
    ],
)
def test_host_is_written_as_in_an_address(host: str, printed: str, url: str) -> None:
    address = Address.parse(host, 8416, ["https://x.example:443/search", "Card"])
    assert (str(address), address.url()) == (printed, url)
    assert address.is_local is (host not in ("0.0.0.0", "::"))
    assert address.names == ["x.example", "card"]


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("", "for example 127.0.0.1 or x.example"),
        ("[", "for example 127.0.0.1 or x.example"),
        ("127.0.0.1:9000", "write --host 127.0.0.1 --port 9000"),
    ],
)
def test_host_that_cannot_be_meant_is_refused(host: str, remedy: str) -> None:
    with pytest.raises(InputError) as refused:
        Address.parse(host, 8416)
    assert refused.value.remedy == remedy


@pytest.mark.parametrize(
    ("error", "option"),
    [
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "--host"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "--host"),
        (TypeError("encoding of hostname failed"), "--host"),
        (OSError(errno.EADDRINUSE, "Address already in use"), "--port"),
        (PermissionError(errno.EACCES, "Permission denied"), "--port"),
    ],
)
def test_remedy_of_an_address_that_cannot_be_used_follows_the_cause(
    error: Exception, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_: Mock(bind=Mock(side_effect=error)))
    with pytest.raises(InputError) as refused:
        listen(Address("127.0.0.1", 8416))
    assert option in refused.value.remedy


def test_port_that_is_taken_is_named(
    server: Server, tmp_path: Path, vram_search_without_training: Cli
) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    done = serve_in_this_process(server, vram_search_without_training, "--database", other)
    assert done.returncode == 2
    assert f"127.0.0.1:{server.port} cannot be used" in done.stdout


def test_other_hosts_are_warned_about_and_known(tmp_path: Path) -> None:
    with serving(tmp_path, "--lan") as (server, said):
        assert "can open the login" in said
        assert "read-only link" in said or "no address in a network" in said
        wrong = httpx.get(server.address, headers={"Host": "evil.example"})
        assert wrong.status_code == 421


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    code = (
        "import importlib.util as u, sys; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'fastapi' else find(name, *a);"
        "sys.argv = ['vram-search', 'serve'];"
        "from vram_search.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not installed: fastapi" in done.stderr
    assert 'pip install "vram-search[serve]"' in done.stderr
