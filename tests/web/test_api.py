"""The REST API gives the command line's answers, and its errors."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Annotated, Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
import yaml
from fastapi import APIRouter, Body, FastAPI
from starlette.testclient import TestClient

from tests.conftest import tiny_study
from tests.report.conftest import make_study
from tests.web.conftest import HOST, TOKEN
from vram_search.store import Store, StudyRecord
from vram_search.store.events import events_after
from vram_search.store.location import study_folder
from vram_search.store.progress import Progress, record_progress
from vram_search.store.queue import StudyQueue
from vram_search.web.api_system import _first_after, _stream
from vram_search.web.one_at_a_time import OneAtATime
from vram_search.web.problems import MEDIA_TYPE
from vram_search.web.service import Service

Cli = Callable[..., subprocess.CompletedProcess[str]]


def study_file(folder: Path, **changes: Any) -> str:
    return yaml.safe_dump(tiny_study(folder, **changes))


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("/studies", "studies"),
        ("/studies/td-010/best", "best --study td-010"),
        ("/studies/td-010/best?limit=14GiB", "best --study td-010 --limit 14GiB"),
        ("/studies/td-010/pareto", "pareto --study td-010"),
        ("/studies/td-010/importance", "importance --study td-010"),
        ("/studies/td-010/compare?first=0&second=best", "compare 0 best --study td-010"),
        ("/studies/td-010/trials/3", "show 3 --study td-010"),
        ("/studies/td-010/trials/3/why", "why 3 --study td-010"),
        ("/studies/td-010/trials", "top --all --study td-010"),
        ("/queue", "queue list"),
    ],
)
def test_answer_is_that_of_the_command_line(
    client: TestClient,
    study: StudyRecord,
    vram_search_without_training: Cli,
    path: str,
    command: str,
) -> None:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    done = vram_search_without_training(*command.split(), "--json")
    assert done.returncode == 0, done.stdout
    assert answer.json() == json.loads(done.stdout)


def test_estimate_and_fit_are_those_of_the_command_line(
    client: TestClient, vram_search_without_training: Cli
) -> None:
    asked = {"model": "qwen2.5-3b", "card": "rtx-5060-ti-16gb"}
    for name in ("estimate", "fit"):
        answer = client.post(f"/api/v1/{name}", json=asked)
        options = [word for key, value in asked.items() for word in (f"--{key}", value)]
        done = vram_search_without_training(name, *options, "--json")
        assert answer.json() == json.loads(done.stdout)


@pytest.mark.parametrize(
    ("path", "status", "command"),
    [
        ("/studies/none/best", 404, ""),
        ("/studies/td-010/trials/99", 404, "show 99 --study td-010"),
        ("/studies/td-010/best?limit=much", 422, "best --study td-010 --limit much"),
        ("/studies/td-010/compare?first=1&second=1", 422, "compare 1 1 --study td-010"),
        ("/queue/9", 404, "queue pause 9"),
    ],
)
def test_error_holds_message_and_remedy_of_the_command_line(
    client: TestClient,
    study: StudyRecord,
    vram_search_without_training: Cli,
    path: str,
    status: int,
    command: str,
) -> None:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    if command:
        said = vram_search_without_training(*command.split()).stdout
        assert f"error: {problem['detail']}" in said
        assert problem["remedy"] in said


def test_study_is_created_once_for_an_idempotency_key(
    client: TestClient, store: Store, tmp_path: Path
) -> None:
    new = {"study_file": study_file(tmp_path), "trials": 3}
    key = {"Idempotency-Key": "k1"}
    first = client.post("/api/v1/studies", json=new, headers=key)
    again = client.post("/api/v1/studies", json=new, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert len(StudyQueue(store.engine).entries()) == 1
    other = {"study_file": study_file(tmp_path, study="other")}
    refused = client.post("/api/v1/studies", json=other, headers=key)
    assert refused.status_code == 409
    assert "Idempotency-Key" in refused.json()["detail"]
    twice = client.post("/api/v1/studies", json=new)
    assert twice.status_code == 409
    assert "in the queue already" in twice.json()["detail"]


@pytest.mark.parametrize(
    "other",
    [
        {"trials": 4},
        {"trials": None},
        {"hours": 2},
        {"until": "2099-01-01T08:00:00Z"},
        {"not_before": "2098-01-01T08:00:01+01:00"},
        {"paused": True},
        {"accept_changes": True},
    ],
)
def test_one_key_with_other_limits_is_refused(
    client: TestClient, store: Store, tmp_path: Path, other: dict[str, object]
) -> None:
    new = {
        "study_file": study_file(tmp_path),
        "trials": 3,
        "hours": 1,
        "not_before": "2098-01-01T07:00:00Z",
    }
    key = {"Idempotency-Key": "k1"}
    entry = client.post("/api/v1/studies", json=new, headers=key).json()["id"]
    refused = client.post("/api/v1/studies", json={**new, **other}, headers=key)
    assert refused.status_code == 409
    assert "with other limits" in refused.json()["detail"]
    client.patch(f"/api/v1/queue/{entry}", json={"trials": 9, "hours": None})
    same = {**new, "hours": 1.0, "not_before": "2098-01-01T08:00:00+01:00"}
    again = client.post("/api/v1/studies", json=same, headers=key)
    assert (again.status_code, again.json()["trials"]) == (200, 9)  # the request that it was


def test_requests_with_one_key_at_the_same_time_add_one_study(
    client: TestClient, store: Store, tmp_path: Path
) -> None:
    new, key = {"study_file": study_file(tmp_path)}, {"Idempotency-Key": "k1"}
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(client.post, "/api/v1/studies", json=new, headers=key) for _ in "abcd"]
        answers = [one.result() for one in sent]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len(StudyQueue(store.engine).entries()) == 1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"until": "2001-01-01T00:00:00Z"}, "is over already"),
        (
            {"not_before": "2099-01-02T00:00:00Z", "until": "2099-01-01T00:00:00Z"},
            "is not after not_before",
        ),
        ({"not_before": "9999-12-31T23:59:59-14:00"}, "too far away"),
        ({"until": "0001-01-01T00:00:00+14:00"}, "too far away"),
        ({"not_befor": "2099-01-01T00:00:00Z"}, "not_befor"),
        ({"not_before": 0}, "write a date with a time"),
        ({"not_before": "22"}, "write a date with a time"),
        ({"until": True}, "write a date with a time"),
        ({"trials": True}, "not true or false"),
        ({"hours": True}, "not true or false"),
    ],
)
def test_limits_that_cannot_be_are_refused(
    client: TestClient, tmp_path: Path, limits: dict[str, Any], words: str
) -> None:
    new = {"study_file": study_file(tmp_path)}
    assert client.post("/api/v1/studies", json=new).status_code == 201
    other = {"study_file": study_file(tmp_path, study="other"), **limits}
    for answer in (
        client.patch("/api/v1/queue/1", json=limits),
        client.post("/api/v1/studies", json=other),
    ):
        assert answer.status_code == 422
        assert words in answer.json()["detail"]


def test_change_of_nothing_changes_nothing(client: TestClient, tmp_path: Path) -> None:
    entry = client.post("/api/v1/studies", json={"study_file": study_file(tmp_path)}).json()
    assert client.patch("/api/v1/queue/1", json={}).json() == {**entry, "place": None}


def test_faulty_study_is_answered_with_every_fault(client: TestClient, tmp_path: Path) -> None:
    text = study_file(tmp_path, seed=-1, budget={"trials": 0})
    for path in ("/studies", "/studies/validate", "/studies/plan"):
        problem = client.post(f"/api/v1{path}", json={"study_file": text}).json()
        assert {fault["path"] for fault in problem["faults"]} == {"seed", "budget.trials"}


def test_plan_is_the_dry_run_of_the_command_line(
    client: TestClient, tmp_path: Path, vram_search_without_training: Cli
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(study_file(tmp_path))
    answer = client.post("/api/v1/studies/plan", json={"study_file": file.read_text()})
    assert answer.status_code == 200, answer.text
    done = vram_search_without_training("run", file, "--dry-run", "--json")
    assert answer.json() == json.loads(
        done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1]
    )


def test_queue_is_ordered_paused_and_emptied(client: TestClient, tmp_path: Path) -> None:
    ids = {}
    for name in ("a", "b"):
        new = {"study_file": study_file(tmp_path, study=name), "not_before": "2099-01-01T00:00:00Z"}
        ids[name] = client.post("/api/v1/studies", json=new).json()["id"]
    moved = client.post(f"/api/v1/queue/{ids['b']}/move", params={"place": 1}).json()
    assert [entry["study"] for entry in moved["entries"]] == ["b", "a"]
    changed = client.patch(f"/api/v1/queue/{ids['a']}", json={"not_before": None, "trials": 5})
    assert (changed.json()["not_before"], changed.json()["trials"]) == (None, 5)
    assert client.post("/api/v1/studies/a/pause").json()["state"] == "paused"
    again = client.post("/api/v1/studies/a/pause")
    assert (again.status_code, again.json()["detail"]) == (409, "study a is paused already")
    assert client.post("/api/v1/studies/a/resume").json()["state"] == "queued"
    assert client.post("/api/v1/studies/a/cancel").json()["state"] == "cancelled"
    late = client.post(f"/api/v1/queue/{ids['a']}/resume")
    assert late.status_code == 409
    assert "has ended" in late.json()["detail"]


def test_trials_are_filtered_ordered_and_paged(client: TestClient, study: StudyRecord) -> None:
    path = f"/api/v1/studies/{study.name}/trials"
    everything = client.get(path).json()["trials"]
    complete = [trial for trial in everything if trial["outcome"] == "complete"]
    answer = client.get(path, params={"outcome": "complete", "order": "eval_loss", "limit": 2})
    losses = sorted(trial["eval_loss"] for trial in complete)
    assert [trial["eval_loss"] for trial in answer.json()["trials"]] == losses[:2]
    assert answer.headers["x-total-count"] == str(len(complete))
    following = client.get(path, params={"outcome": "complete", "order": "eval_loss", "offset": 2})
    assert [trial["eval_loss"] for trial in following.json()["trials"]] == losses[2:]


def test_first_page_shows_the_running_trials_of_other_workers(
    client: TestClient, store: Store, study: StudyRecord
) -> None:
    queue = StudyQueue(store.engine)
    entry = queue.add(study.name, "", is_detached=True)
    assert queue.claim(entry.id, lambda entries: True, host="elsewhere", device="cpu", pid=1)
    point = store.trials(study.id)[0].hyperparameters
    for number, host in ((90, "host-b"), (91, "elsewhere")):
        trial = store.start_trial(study.id, number, point, 1, "d", host=host)
        if host == "host-b":
            record_progress(store.engine, trial, Progress("train", 30, 90))
    page = client.get("/").text
    assert "trial 90 on host-b: train, step 30 of 90" in page
    assert "trial 91 on elsewhere" not in page, "it is the one that is shown in full"


@pytest.fixture
def with_workers(store: Store, study: StudyRecord) -> list[int]:
    """A study that two workers and the service run: the entries, of the service last."""
    queue = StudyQueue(store.engine)
    found = []
    for number, is_detached in enumerate((False, False, True)):
        entry = queue.add(study.name, "", is_detached=is_detached)
        owner = {"host": "elsewhere", "device": "cpu", "pid": 1}
        assert queue.claim(entry.id, lambda entries: True, **owner)
        point = store.trials(study.id)[0].hyperparameters
        trial = store.start_trial(study.id, 90 + number, point, 1, "d", host="elsewhere")
        record_progress(store.engine, trial, Progress("train", 30, 90, losses=[(1, 2.0)]))
        found.append(entry.id)
    return found


def test_study_of_several_workers_is_shown_once(
    client: TestClient, store: Store, with_workers: list[int]
) -> None:
    make_study(store, "other", trials=3)
    queue = StudyQueue(store.engine)
    entry = queue.add("other", "", is_detached=True)
    assert queue.claim(entry.id, lambda entries: True, host="elsewhere", device="gpu", pid=1)
    other = store.study("other")
    assert other is not None
    point = store.trials(other.id)[0].hyperparameters
    trial = store.start_trial(other.id, 90, point, 1, "d")
    record_progress(store.engine, trial, Progress("train", 30, 90, losses=[(1, 2.0)]))
    page = client.get("/").text
    assert page.count("<h1>") == 2
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10, "idiomorph needs ids that stand once"


@pytest.mark.parametrize(
    ("asked", "of_workers"), [("pause", "stop"), ("stop", "stop"), ("cancel", "cancel")]
)
def test_every_worker_of_a_study_is_asked(
    client: TestClient, store: Store, with_workers: list[int], asked: str, of_workers: str
) -> None:
    answer = client.post(f"/api/v1/studies/td-010/{asked}")
    assert (answer.json()["id"], answer.json()["request"]) == (with_workers[-1], asked)
    queue = StudyQueue(store.engine)
    assert [queue.entry(entry).request for entry in with_workers] == [of_workers] * 2 + [asked]


def test_curve_is_the_recorded_one(client: TestClient, store: Store, study: StudyRecord) -> None:
    trial = store.top_trials(study.id, 1)[0]
    curve = client.get(f"/api/v1/studies/{study.name}/trials/{trial.number}/curve").json()
    assert curve["losses"] == [[s.step, s.loss] for s in store.step_losses(trial.id)]
    assert curve["evaluations"] == [[e.step, e.eval_loss] for e in store.evaluations(trial.id)]


def with_a_model_of_the_hub(store: Store) -> None:
    """Names a model in the record: random weights cannot be exported."""
    record = store.study("tiny")
    assert record is not None
    name = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct"}
    model = {**record.spec["model"], **name, "weights": "pretrained", "shape": None}
    spec = {**record.spec, "model": model}
    store.revise_study(record.id, spec, record.data_hash, record.card, {**record.model, **name})


def test_export_is_a_zip_of_the_command_lines_files(
    client: TestClient,
    store: Store,
    tmp_path: Path,
    write_study: Callable[..., Path],
    vram_search_without_training: Cli,
) -> None:
    run = vram_search_without_training
    assert run("run", write_study(), "--trials", 1).returncode == 0
    with_a_model_of_the_hub(store)
    for tool in ("llama-factory", "axolotl", "trl", "peft"):
        answer = client.get("/api/v1/studies/tiny/trials/best/export", params={"to": tool})
        folder = tmp_path / tool
        done = run("export", "best", "--study", "tiny", "--to", tool, "-o", folder)
        assert done.returncode == 0, done.stdout
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            names = set(archive.namelist())
        assert names == {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}


def test_report_is_the_command_lines(client: TestClient, study: StudyRecord) -> None:
    page = client.get(f"/api/v1/studies/{study.name}/report")
    assert page.headers["content-type"].startswith("text/html")
    assert "Learning curves" in page.text


def test_deleted_study_is_gone_with_its_adapters(
    client: TestClient,
    store: Store,
    url: str,
    write_study: Callable[..., Path],
    vram_search_without_training: Cli,
) -> None:
    run = vram_search_without_training
    assert run("run", write_study(), "--trials", 1).returncode == 0
    adapters = study_folder(url, "tiny").adapters
    assert adapters.is_dir()
    refused = client.delete("/api/v1/studies/tiny", params={"confirm": "other"})
    assert refused.status_code == 422
    assert client.delete("/api/v1/studies/tiny", params={"confirm": "tiny"}).status_code == 204
    assert store.study("tiny") is None
    assert not adapters.exists()
    assert client.get("/api/v1/studies/tiny").status_code == 404
    assert run("run", write_study(), "--trials", 1).returncode == 0
    record = store.study("tiny")
    assert record is not None
    assert [trial.number for trial in store.trials(record.id)] == [0]


def test_study_in_the_queue_is_not_deleted(
    client: TestClient, store: Store, study: StudyRecord
) -> None:
    StudyQueue(store.engine).add(study.name, "", is_detached=True)
    answer = client.delete(f"/api/v1/studies/{study.name}", params={"confirm": study.name})
    assert answer.status_code == 409


def test_two_files_of_one_name_are_received_at_once(client: TestClient, service: Service) -> None:
    both_are_there = Barrier(2, timeout=20)

    def send(letter: bytes) -> int:
        def pieces() -> Iterator[bytes]:
            yield 1000 * letter
            both_are_there.wait()
            yield 1000 * letter

        return client.put("/api/v1/uploads/rows.jsonl", content=pieces()).status_code

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(send, (b"a", b"b"))) == [201, 201]
    (file,) = service.uploads.iterdir()
    assert set(file.read_bytes()) in ({ord("a")}, {ord("b")}) and file.stat().st_size == 2000


@pytest.mark.parametrize(
    "request_line",
    ["PUT /api/v1/uploads/rows.jsonl", "POST /api/v1/studies/a/points", "POST /login"],
)
def test_request_that_is_broken_off_leaves_nothing_behind(
    client: TestClient, service: Service, request_line: str
) -> None:
    received = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
    headers += [(b"content-type", b"application/json"), (b"content-length", b"100")]
    method, path = request_line.split()
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": headers}
    scope |= {"query_string": b"", "client": ("127.0.0.1", 1), "raw_path": path.encode()}

    async def send_it() -> None:
        receive = AsyncMock(side_effect=lambda: next(received))
        await client.app(scope, receive, AsyncMock())

    asyncio.run(send_it())  # else uvicorn writes a traceback
    assert not service.uploads.exists() or list(service.uploads.iterdir()) == []


def test_file_that_cannot_be_stored_is_a_problem(client: TestClient, service: Service) -> None:
    service.uploads.parent.mkdir(parents=True, exist_ok=True)
    service.uploads.write_text("a file where the folder should be")
    answer = client.put("/api/v1/uploads/rows.jsonl", content=b"{}")
    assert answer.status_code == 503
    assert "rows.jsonl cannot be stored" in answer.json()["detail"]


def test_rows_are_uploaded_and_used(client: TestClient, tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    rows = (tmp_path / "rows.jsonl").read_bytes()
    sent = client.put("/api/v1/uploads/mine.jsonl", content=rows).json()
    assert sent["bytes"] == len(rows)
    study["dataset"]["train"] = sent["path"]
    answer = client.post("/api/v1/studies/plan", json={"study_file": yaml.safe_dump(study)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["train_rows"] == 20


def test_metrics_are_prometheus_text(client: TestClient, study: StudyRecord) -> None:
    text = client.get("/api/v1/metrics").text
    assert 'vram_search_queue_entries{state="queued"} 0' in text
    assert 'vram_search_trials{study="td-010",outcome="complete"} ' in text
    for line in text.splitlines():
        assert line.startswith("# TYPE vram_search_") or float(line.rpartition(" ")[2]) >= 0


def test_openapi_describes_every_endpoint(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    operations = [
        (path, verb, operation)
        for path, verbs in schema["paths"].items()
        for verb, operation in verbs.items()
    ]
    assert len(operations) > 35
    assert [path for path, _, _ in operations if not path.startswith("/api/v1/")] == []
    for path, verb, operation in operations:
        assert operation.get("description"), (path, verb)
        for code in ("401", "404", "409", "422"):
            assert list(operation["responses"][code]["content"]) == [MEDIA_TYPE], (path, verb, code)
    assert "remedy" in schema["components"]["schemas"]["Problem"]["properties"]


def test_body_that_is_no_json_is_named_with_its_place(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/studies", content='{"study_file": }', headers=headers)
    assert answer.status_code == 422
    assert (
        answer.json()["detail"] == "the request is not valid: body: not valid JSON, at character 15"
    )


def test_page_of_the_api_shows_every_endpoint_with_its_inputs(client: TestClient) -> None:
    page = client.get("/api").text
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<strong>{method.upper()}</strong> <code>{path}</code>" in page
    assert "<td><code>study_file</code> (required)</td><td>body</td><td>string</td>" in page
    assert "<td><code>idempotency-key</code></td><td>header</td><td>string or null</td>" in page
    assert "as <code>run --dry-run</code> does" in page


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/api/v1/nothing", 404, "/api/v1/nothing does not exist"),
        ("DELETE", "/api/v1/queue", 405, "/api/v1/queue does not answer DELETE"),
        ("HEAD", "/api/v1/events", 405, ""),
    ],
)
def test_unknown_paths_and_methods_are_problems(
    client: TestClient, method: str, path: str, status: int, words: str
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status and answer.headers["content-type"] == MEDIA_TYPE
    assert method == "HEAD" or (answer.json()["detail"] == words and answer.json()["remedy"])


@pytest.mark.parametrize("path", ["/", "/api/v1/health", "/api/v1/studies/td-010/trials"])
def test_head_is_answered_like_get(client: TestClient, study: StudyRecord, path: str) -> None:
    answer, whole = client.head(path), client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == whole.headers["content-type"]


def test_page_that_does_not_exist_is_shown_as_a_page(client: TestClient) -> None:
    html = {"Accept": "text/html,*/*;q=0.8"}
    for path in ("/studies/none", "/nowhere", "/parts/none"):
        page = client.get(path, headers=html)
        assert page.status_code in (404, 422)
        assert page.headers["content-type"].startswith("text/html")
        assert "Back to the first page" in page.text
        for headers in ({}, {**html, "HX-Request": "true"}):
            assert client.get(path, headers=headers).headers["content-type"] == MEDIA_TYPE
    assert client.get("/api/v1/nothing", headers=html).headers["content-type"] == MEDIA_TYPE


def test_part_of_a_deleted_study_says_so(client: TestClient) -> None:
    for part in ("charts", "table"):
        answer = client.get(f"/studies/none/{part}")
        assert answer.status_code == 200 and "no study" in answer.text


def test_step_that_does_not_exist_adds_no_study(
    client: TestClient, store: Store, tmp_path: Path
) -> None:
    assert client.post("/new/plant", data={"study_file": study_file(tmp_path)}).status_code == 422
    assert StudyQueue(store.engine).entries() == []


def test_scripts_are_kept_by_the_browser_and_checked(client: TestClient) -> None:
    first = client.get("/static/page.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = {"If-None-Match": first.headers["etag"]}
    assert client.get("/static/page.js", headers=tag).status_code == 304
    assert client.get("/").headers["cache-control"] == "no-store"


def test_body_that_is_not_json_is_refused_by_its_type(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = client.post("/api/v1/estimate", content="{}", headers={"Content-Type": kind})
        assert answer.status_code == 415 and answer.headers["content-type"] == MEDIA_TYPE
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/estimate", content=b"\xd2\xff", headers=headers)
    assert answer.status_code == 400 and answer.json()["remedy"] == "send JSON in UTF-8"
    kind = "application/json; charset=utf-8"
    answer = client.post("/api/v1/estimate", content="{}", headers={"Content-Type": kind})
    assert answer.status_code == 422


def test_wrong_request_is_a_problem_with_its_fault(client: TestClient) -> None:
    answer = client.post("/api/v1/estimate", json={"model": "qwen2.5-3b", "card": "16gb", "x": 1})
    assert answer.status_code == 422
    assert answer.json()["faults"][0]["path"] == "x"
    for path, body in (
        ("studies/validate", {"study_file": "a: 1", "trials": 3}),
        ("studies/td-010/points", {"values": {}, "liek": "3"}),
    ):
        unknown = client.post(f"/api/v1/{path}", json=body)
        assert unknown.status_code == 422 and "Extra inputs" in unknown.json()["detail"]
    for value in (None, True, {"a": 1}, [1]):
        wrong = client.post("/api/v1/studies/td-010/points", json={"values": {"lora_rank": value}})
        fault = {"path": "values.lora_rank", "allowed": ""}
        words = "Value error, a number, a text, or a list of texts is expected"
        assert wrong.json()["faults"] == [{**fault, "message": words}]
    missing = client.post("/api/v1/studies", json={})
    assert missing.json()["faults"][0]["path"] == "study_file"


@pytest.mark.parametrize("path", ["estimate", "fit"])
def test_model_with_a_name_longer_than_a_file_can_have_is_unknown(
    client: TestClient, path: str
) -> None:
    answer = client.post(f"/api/v1/{path}", json={"model": "x" * 5000, "card": "16gb"})
    assert answer.status_code == 422, answer.text


def take(body: Annotated[Any, Body()]) -> None:
    """An endpoint with a body."""


def test_sender_that_stops_in_the_middle_holds_up_nobody() -> None:
    async def both() -> None:
        router, app, go_on = APIRouter(route_class=OneAtATime), FastAPI(), asyncio.Event()
        router.post("/")(take)
        app.state.whole_study = asyncio.Lock()
        app.include_router(router)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"{"
            await go_on.wait()
            yield b"}"

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            slow = asyncio.create_task(client.post("/", content=pieces()))
            await asyncio.sleep(0)
            await asyncio.wait_for(client.post("/", json={}), 10)
            go_on.set()
            await slow

    asyncio.run(both())


def test_point_is_added_once_and_reported(
    client: TestClient,
    store: Store,
    write_study: Callable[..., Path],
    vram_search_without_training: Cli,
) -> None:
    run = vram_search_without_training
    assert run("run", write_study(), "--trials", 1).returncode == 0
    path = "/api/v1/studies/tiny/points"
    added = client.post(path, json={"values": {"learning_rate": 0.002}, "like": "0"})
    assert added.status_code == 201, added.text
    assert added.json()["hyperparameters"]["learning_rate"] == 0.002
    refused = client.post(path, json={"values": {"learning_rate": 5}, "like": "0"})
    assert refused.status_code == 422
    page = client.post(
        "/studies/tiny/points", data={"like": "0", "name": "lora_rank", "value": "5"}
    )
    assert "is not in the study" in page.text
    assert [event.kind for event in events_after(store.engine, 0)].count("point_added") == 1


def test_running_trial_is_skipped_and_one_that_ended_is_not(
    client: TestClient, store: Store, study: StudyRecord
) -> None:
    store.start_trial(study.id, 30, {"lora_rank": 8}, seed=1, data_hash="d")
    base = "/api/v1/studies/td-010/trials"
    assert client.post(f"{base}/30/skip").json() == {"study": "td-010", "number": 30}
    assert client.post(f"{base}/30/skip").status_code == 202
    kinds = [event.kind for event in events_after(store.engine, 0) if event.trial == 30]
    assert kinds == ["trial_started", "trial_skip_asked"]
    refused = client.post(f"{base}/3/skip")
    assert refused.status_code == 409
    assert "trial 3 has ended" in refused.json()["detail"]


@pytest.mark.parametrize(("asked", "start"), [(None, 7), (0, 0), (3, 3), (10**40, 7)])
def test_reader_of_a_later_copy_gets_the_events_from_now_on(asked: int | None, start: int) -> None:
    assert _first_after(asked, newest=7) == start


def test_waiting_events_are_sent_in_one_piece(service: Service, study: StudyRecord) -> None:
    request = Mock(is_disconnected=AsyncMock(side_effect=[False, True]))
    request.app.state.is_ending = False

    async def read() -> list[str]:
        return [text async for text in _stream(request, service.store, 0)]

    _, events = asyncio.run(read())
    assert events.count("id: ") == len(events_after(service.store.engine, 0)) > 50


def test_log_of_a_trial_holds_its_lines_alone(
    client: TestClient, url: str, study: StudyRecord
) -> None:
    folder = study_folder(url, "td-010").logs
    folder.mkdir(parents=True)
    entries = [{"at": "2026-01-01", "text": f"of {n}", "trial": n} for n in (1, 2, 1)]
    (folder / "a.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    answer = client.get("/api/v1/studies/td-010/trials/1/logs")
    assert answer.text == "2026-01-01 of 1\n2026-01-01 of 1\n"
