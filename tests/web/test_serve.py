"""`vram-search serve` in a process of its own: queue, restarts, events."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import run_cli, tiny_study
from tests.web.conftest import Server, start
from vram_search.web import api_system


def add(server: Server, folder: Path, **changes: Any) -> dict[str, Any]:
    text = yaml.safe_dump(tiny_study(folder, **changes))
    answer = server.client.post("/api/v1/studies", json={"study_file": text})
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def state(server: Server, entry: int) -> str:
    return str(server.client.get(f"/api/v1/queue/{entry}").json()["state"])


def test_link_is_printed_at_the_first_start_alone(home: Path, tmp_path: Path) -> None:
    server = Server(home, tmp_path)
    said = server.start()
    assert f"{server.address}/?token={server.token}" in said
    server.stop()
    again = server.start()
    assert server.token not in again
    server.stop()
    linked = run_cli("serve", "--link", "--port", server.port)
    assert linked.stdout.strip() == f"{server.address}/?token={server.token}"


def test_studies_run_one_after_the_other(server: Server, tmp_path: Path) -> None:
    first = add(server, tmp_path, study="a", budget={"trials": 2})
    second = add(server, tmp_path, study="b", budget={"trials": 1})
    server.wait_for(lambda: state(server, second["id"]) == "finished")
    entries = {
        entry["study"]: entry
        for entry in server.client.get("/api/v1/queue?ended=true").json()["entries"]
    }
    assert entries["a"]["state"] == "finished"
    assert entries["a"]["message"] == "2 trials are finished"
    assert entries["a"]["ended_at"] <= entries["b"]["started_at"]
    best = server.client.get("/api/v1/studies/a/best").json()
    assert best["trial"]["outcome"] == "complete"
    assert first["attempts"] == 0 and entries["a"]["attempts"] == 1


def test_study_that_cannot_start_fails_with_message_and_remedy(
    server: Server, tmp_path: Path
) -> None:
    entry = add(server, tmp_path, budget={"trials": 1})
    server.wait_for(lambda: state(server, entry["id"]) == "finished")
    changed = add(server, tmp_path, budget={"trials": 2}, seed=7)
    server.wait_for(lambda: state(server, changed["id"]) == "failed")
    failed = server.client.get(f"/api/v1/queue/{changed['id']}").json()
    assert "study tiny" in failed["message"]
    assert failed["remedy"]


def test_study_goes_on_while_the_service_is_killed_and_started_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stop()
    monkeypatch.setenv("STAGE_SECONDS", "1")
    server.start()
    entry = add(server, tmp_path, budget={"trials": 4})
    running = server.wait_for(
        lambda: server.client.get(f"/api/v1/queue/{entry['id']}").json()["pid"]
    )
    server.stop(kill=True)
    server.start()
    again = server.client.get(f"/api/v1/queue/{entry['id']}").json()
    assert (again["state"], again["pid"]) == ("running", running)
    server.wait_for(lambda: state(server, entry["id"]) == "finished")
    trials = server.client.get("/api/v1/studies/tiny/trials").json()["trials"]
    assert [trial["outcome"] for trial in trials if trial["outcome"] == "lost"] == []
    assert len({trial["number"] for trial in trials}) == len(trials)


def test_study_whose_process_was_killed_continues(server: Server, tmp_path: Path) -> None:
    server.stop()
    os.environ["HELD_TRIALS"] = "1"
    try:
        server.start()
    finally:
        del os.environ["HELD_TRIALS"]
    entry = add(server, tmp_path, budget={"trials": 3})
    path = "/api/v1/studies/tiny/trials"
    server.wait_for(lambda: server.client.get(f"{path}?outcome=running").json().get("trials"))
    pid = server.client.get(f"/api/v1/queue/{entry['id']}").json()["pid"]
    os.kill(pid, 9)
    attempts = "attempts"
    server.wait_for(lambda: server.client.get(f"/api/v1/queue/{entry['id']}").json()[attempts] == 2)


def test_cancel_ends_a_study_that_runs(server: Server, tmp_path: Path) -> None:
    server.stop()
    os.environ["HELD_TRIALS"] = "0"
    try:
        server.start()
    finally:
        del os.environ["HELD_TRIALS"]
    entry = add(server, tmp_path)
    server.wait_for(lambda: state(server, entry["id"]) == "running")
    assert server.client.post("/api/v1/studies/tiny/cancel").status_code == 200
    server.wait_for(lambda: state(server, entry["id"]) == "cancelled")


def test_run_on_the_command_line_and_the_service_share_the_queue(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(tiny_study(tmp_path, study="own", budget={"trials": 1})))
    monkeypatch.setenv("STAGE_SECONDS", "3")
    process = start("run", file)
    server.wait_for(lambda: server.client.get("/api/v1/queue").json()["entries"])
    entry = add(server, tmp_path, study="later", budget={"trials": 1})
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    server.wait_for(lambda: state(server, entry["id"]) == "finished")
    entries = server.client.get("/api/v1/queue?ended=true").json()["entries"]
    by_name = {one["study"]: one for one in entries}
    assert by_name["own"]["ended_at"] <= by_name["later"]["started_at"]
    assert (by_name["own"]["is_detached"], by_name["later"]["is_detached"]) == (False, True)


@contextlib.contextmanager
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


def test_reader_that_comes_back_misses_no_event(server: Server, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    with events(server) as stream:
        entry = add(server, tmp_path, budget={"trials": 2})
        while len(seen) < 3:
            seen.append(next(stream))
    server.wait_for(lambda: state(server, entry["id"]) == "finished")
    server.stop()
    server.start()
    with events(server, **{"Last-Event-ID": str(seen[-1]["id"])}) as stream:
        for event in stream:
            seen.append(event)
            if event["kind"] == "queue_changed" and event["data"]["state"] == "finished":
                break
    first = seen[0]["id"]
    assert [event["id"] for event in seen] == list(range(first, first + len(seen)))
    kinds = [event["kind"] for event in seen if event["study"] == "tiny"]
    assert kinds[0] == "queue_changed"
    assert kinds.count("trial_ended") >= 2
    assert kinds.count("study_created") == 1


def test_quiet_stream_sends_heartbeats(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    assert 0 < api_system.HEARTBEAT_SECONDS <= 30
    with server.client.stream("GET", "/api/v1/events", timeout=40) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "retry: 2000"
        assert any(line == ": still here" for line in lines)


def test_large_headers_are_refused(server: Server) -> None:
    answer = httpx.get(server.address, headers={"X-Large": "x" * 20_000})
    assert answer.status_code == 431


def test_second_service_on_a_database_is_refused(server: Server, tmp_path: Path) -> None:
    done = run_cli("serve", "--port", 1 + server.port, "--folder", tmp_path)
    assert done.returncode == 2
    assert "another service works on this database" in done.stdout


def test_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    done = run_cli("serve", "--port", server.port, "--database", other)
    assert done.returncode == 2
    assert f"127.0.0.1:{server.port} cannot be used" in done.stdout


def test_other_hosts_are_warned_about_and_known(home: Path, tmp_path: Path) -> None:
    server = Server(home, tmp_path)
    said = server.start("--lan")
    assert "can open the login" in said
    assert "read-only link" in said or "no address in a network" in said
    wrong = httpx.get(server.address, headers={"Host": "evil.example"})
    assert wrong.status_code == 421
    server.stop()


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
