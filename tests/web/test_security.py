"""Who may do what: the table of docs/service.md, request by request."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from bench import security_table
from tests.conftest import tiny_study
from tests.web.conftest import HOST, TOKEN
from vram_search.errors import InputError
from vram_search.store import StudyRecord
from vram_search.web import expressions, guard
from vram_search.web.service import Service
from vram_search.web.token import Credentials, load_token

Connect = Callable[..., TestClient]
API = ("queue", "events", "metrics", "studies", "cards")
BAD_NAMES = ("..%2Fescape.jsonl", "dataset_info.json", "run.sh", ".hidden.json")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/estimate",
        "/new",
        "/openapi.json",
        "/api/v1/queue",
        "/api/v1/events",
        "/api/v1/metrics",
    ],
)
def test_nothing_is_answered_without_a_login(connect: Connect, path: str) -> None:
    answer = connect().get(path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/api/v1/health", "/login", "/static/page.js", "/style.css"])
def test_what_a_login_needs_is_public(connect: Connect, path: str) -> None:
    assert connect().get(path).status_code == 200


def test_browser_without_a_cookie_is_led_to_the_login(connect: Connect) -> None:
    answer = connect(Accept="text/html").get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_link_is_exchanged_for_a_cookie_that_scripts_cannot_read(connect: Connect) -> None:
    client = connect()
    answer = client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/"])
def test_link_leads_to_no_other_site(connect: Connect, path: str) -> None:
    answer = connect().request("GET", f"http://{HOST}{path}", params={"token": TOKEN})
    assert answer.headers["location"] == "/evil.example/"


def test_token_in_the_form_logs_in(connect: Connect) -> None:
    client = connect(Origin=f"http://{HOST}")
    assert client.post("/login", data={"token": "wrong"}).status_code == 401
    assert client.post("/login", data={"token": TOKEN}).status_code == 303
    assert client.get("/api/v1/queue").status_code == 200


@pytest.mark.parametrize("token", ["wrong", TOKEN[:-1], TOKEN + "x", "ä" * 40])
def test_wrong_token_is_refused(connect: Connect, token: str) -> None:
    assert connect().get("/api/v1/queue", params={"token": token}).status_code == 401


def test_forged_and_expired_cookies_are_refused(
    connect: Connect, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = service.credentials.session("viewer")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 40 * 86400)
    expired = service.credentials.session("owner")
    monkeypatch.undo()
    forged = good.replace("viewer", "owner")
    other = Credentials("x" * 40).session("owner")
    for cookie in (forged, expired, other, "", "owner.9999999999.", "a", "owner.x.y"):
        client = connect(Cookie=f"{service.cookie}={cookie}")
        assert client.get("/api/v1/queue").status_code == 401, cookie
    assert connect(Cookie=f"{service.cookie}={good}").get("/api/v1/queue").status_code == 200


def test_read_only_link_reads_and_changes_nothing(
    connect: Connect, service: Service, study: StudyRecord
) -> None:
    viewer = connect(service.credentials.viewer_token)
    assert viewer.get("/api/v1/studies").status_code == 200
    for method, path in [
        ("POST", "/api/v1/studies"),
        ("DELETE", f"/api/v1/studies/{study.name}?confirm={study.name}"),
        ("POST", "/api/v1/queue/1/pause"),
        ("PUT", "/api/v1/uploads/rows.jsonl"),
    ]:
        answer = viewer.request(method, path)
        assert answer.status_code == 403, path
        assert "read-only" in answer.json()["detail"]
    page = viewer.get("/").text
    assert "<button" not in page
    assert 'href="/new"' not in page


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1:8416", "[", "[::1"]
)
def test_other_host_names_are_refused(connect: Connect, host: str) -> None:
    answer = connect(TOKEN, Host=host).get("/api/v1/queue")
    assert answer.status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {},
    ],
)
def test_other_pages_cannot_act_with_the_cookie(
    connect: Connect, service: Service, headers: dict[str, str]
) -> None:
    cookie = f"{service.cookie}={service.credentials.session('owner')}"
    answer = connect(Cookie=cookie, **headers).post("/api/v1/queue/1/pause")
    assert answer.status_code == 403
    assert "Origin" in answer.json()["detail"]


def test_own_page_acts_with_the_cookie(connect: Connect, service: Service) -> None:
    cookie = f"{service.cookie}={service.credentials.session('owner')}"
    client = connect(Cookie=cookie, Origin=f"http://{HOST}")
    assert client.post("/api/v1/queue/1/pause").status_code == 404


def test_cors_is_closed(connect: Connect) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = connect().options("/api/v1/studies", headers=asked)
    assert preflight.status_code == 403
    answer = connect(TOKEN, Origin="http://evil.example").get("/api/v1/studies")
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_every_answer_carries_the_security_headers(connect: Connect, client: TestClient) -> None:
    for answer in (connect().get("/"), client.get("/"), client.get("/api/v1/nowhere")):
        for name in guard.SECURITY_HEADERS:
            assert name in answer.headers, (answer.url, name)
        policy = answer.headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        assert "script-src 'self'" in policy


def test_pages_hold_no_inline_script_or_style(client: TestClient, study: StudyRecord) -> None:
    trial = f"/studies/{study.name}/trials/0"
    for path in ("/", "/estimate", "/new", f"/studies/{study.name}", trial):
        text = client.get(path).text
        assert "<script>" not in text
        assert " style=" not in text
        assert " onclick=" not in text


def test_report_is_sandboxed(client: TestClient, study: StudyRecord) -> None:
    policy = client.get(f"/api/v1/studies/{study.name}/report").headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy


def test_large_bodies_are_refused(client: TestClient) -> None:
    body = b"x" * (guard.MOST_BODY_BYTES + 1)
    assert client.post("/api/v1/studies/validate", content=body).status_code == 413

    def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    kind = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/studies/validate", content=pieces(), headers=kind)
    assert answer.status_code == 413
    assert answer.json()["remedy"] == f"send at most {guard.MOST_BODY_BYTES} bytes"


def test_request_with_two_lengths_is_refused_and_the_connection_closed(client: TestClient) -> None:
    both = {"Content-Length": "2", "Transfer-Encoding": "chunked"}
    answer = client.post("/api/v1/estimate", content=b"{}", headers=both)
    assert answer.status_code == 400
    assert answer.headers["Connection"] == "close"


def test_uploads_have_a_limit_of_their_own(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_UPLOAD_BYTES", 100)
    for content in (b"x" * 101, iter([b"x" * 60, b"x" * 60])):
        answer = client.put("/api/v1/uploads/rows.jsonl", content=content)
        assert answer.status_code == 413
        assert answer.json()["remedy"] == "send at most 100 bytes"


def test_failed_logins_are_limited(connect: Connect, client: TestClient) -> None:
    stranger = connect("wrong")
    for _ in range(guard.MOST_FAILURES):
        assert stranger.get("/api/v1/queue").status_code == 401
    refused = stranger.get("/api/v1/queue")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    form = connect(Origin=f"http://{HOST}").post("/login", data={"token": TOKEN})
    assert form.status_code == 429


def test_reader_does_not_try_tokens_without_a_limit(connect: Connect, service: Service) -> None:
    cookie = f"{service.cookie}={service.credentials.session('viewer')}"
    viewer = connect(Cookie=cookie)
    answers = [viewer.get("/", params={"token": "wrong"}) for _ in range(guard.MOST_FAILURES + 1)]
    assert [answer.status_code for answer in answers] == [401] * guard.MOST_FAILURES + [429]
    assert viewer.get("/").status_code == 200, "the session goes on"


def test_token_of_a_header_counts_more_than_the_cookie(connect: Connect, service: Service) -> None:
    cookie = f"{service.cookie}={service.credentials.session('viewer')}"
    client = connect(TOKEN, Cookie=cookie, Origin=f"http://{HOST}")
    assert client.post("/api/v1/queue/1/pause").status_code == 404
    assert connect("wrong", Cookie=cookie).get("/api/v1/queue").status_code == 401


def test_failures_are_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    failures, now = guard.FailedLogins(), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(guard.MOST_FAILURES):
        failures.add("a")
    assert failures.wait_seconds("a") > 0
    assert failures.wait_seconds("b") == 0
    monkeypatch.setattr(time, "monotonic", lambda: now + guard.WINDOW_SECONDS + 1)
    assert failures.wait_seconds("a") == 0
    assert failures.by_address == {}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("dataset", "train"), "/etc/passwd"),
        (("dataset", "train"), "../../../etc/passwd"),
        (("dataset", "train"), "~root/rows.jsonl"),
        (("dataset", "train"), ["rows.jsonl", "/etc/passwd"]),
        (("dataset", "train"), [{"path": "/etc/passwd"}]),
        (("dataset", "eval"), "link/passwd"),
        (("dataset", "dataset_dir"), "/etc"),
        (("dataset", "template"), "/etc/template.jinja"),
        (("model", "model_name_or_path"), "/etc"),
        (("model", "shape"), "/etc/config.json"),
        (("model", "tokenizer"), "/etc"),
    ],
)
def test_paths_out_of_the_folders_are_refused_before_they_are_looked_at(
    client: TestClient, tmp_path: Path, part: tuple[str, str], value: Any
) -> None:
    (tmp_path / "link").symlink_to("/etc")
    study = tiny_study(tmp_path)
    study[part[0]][part[1]] = value
    answer = client.post("/api/v1/studies/validate", json={"study_file": yaml.safe_dump(study)})
    assert answer.status_code == 422
    problem = answer.json()
    assert "leads out of the folders" in problem["detail"]
    assert problem["faults"][0]["path"].startswith(".".join(part))


def test_studies_name_no_database_of_their_own(client: TestClient, tmp_path: Path) -> None:
    study = tiny_study(tmp_path, database="sqlite:////tmp/other.db")
    answer = client.post("/api/v1/studies", json={"study_file": yaml.safe_dump(study)})
    assert answer.status_code == 422
    assert "the service uses its own database" in answer.json()["detail"]


@pytest.mark.parametrize("model", ["/etc", "../..", "~/x"])
def test_estimates_read_no_model_out_of_the_folders(client: TestClient, model: str) -> None:
    for path in ("/api/v1/estimate", "/api/v1/fit"):
        answer = client.post(path, json={"model": model, "card": "16gb"})
        assert answer.status_code == 422
        assert "leads out of the folders" in answer.json()["detail"]
    page = client.get("/estimate/answer", params={"model": model, "card": "16gb"})
    assert "leads out of the folders" in page.text


def test_expression_that_takes_ages_is_refused(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "SECONDS", 0.5)
    study = tiny_study(tmp_path)
    study["search_space"]["lora_target"] = ["all", "(.|.)*!"]
    asked = {"model": "qwen2.5-3b", "card": "16gb", "lora_target": "(.|.)*!"}
    for path, body in (
        ("estimate", asked),
        ("fit", asked),
        ("studies/validate", {"study_file": yaml.safe_dump(study)}),
    ):
        answer = client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == 422
        assert "takes too long to match" in answer.json()["detail"]
    page = client.get("/estimate/answer", params=asked)
    assert "is not in the list" in page.text, "readers may ask this"
    monkeypatch.undo()
    usual = {**asked, "lora_target": r".*self_attn\.(q|v)_proj"}
    assert client.post("/api/v1/estimate", json=usual).status_code == 200


@pytest.mark.parametrize(
    "name", ["..%2Fescape.jsonl", "dataset_info.json", "run.sh", ".hidden.json"]
)
def test_uploads_keep_to_their_folder_and_to_rows(
    client: TestClient, service: Service, name: str
) -> None:
    assert client.put(f"/api/v1/uploads/{name}", content=b"{}").status_code in (404, 422)
    assert not service.uploads.exists() or list(service.uploads.iterdir()) == []


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "a: &a [*a]", "- 1"])
def test_yaml_runs_no_code(client: TestClient, text: str) -> None:
    assert client.post("/api/v1/studies/validate", json={"study_file": text}).status_code == 422


@pytest.mark.parametrize("name", ["..", "..%2F..%2Fetc%2Fpasswd", "nowhere"])
def test_logs_of_no_other_file_are_read(client: TestClient, name: str) -> None:
    assert client.get(f"/api/v1/studies/{name}/log").status_code in (404, 405)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no mode bits")
def test_token_file_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials, is_new = load_token(file)
    assert is_new
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_token(file) == (credentials, False)
    file.chmod(0o644)
    with pytest.raises(InputError, match="can be read by other users"):
        load_token(file)


def test_token_is_long_and_new_each_time(tmp_path: Path) -> None:
    tokens = {load_token(tmp_path / name)[0].token for name in "abc"}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 43


def test_page_with_requests_and_answers_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAM_SEARCH_HOME", "set here so that it is restored")
    assert security_table.page() == security_table.PAGE.read_text(encoding="utf-8")
