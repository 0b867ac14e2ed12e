"""Sends a hostile request for each item of the service's security, and writes the answers.

    python -m bench.security_table            writes docs/security-table.md
    python -m bench.security_table --check    compares only

The application runs in this process with a database of its own; nothing is sent over a network.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from starlette.testclient import TestClient

from tests.conftest import tiny_study
from vram_search.store import open_store, sqlite_url
from vram_search.web import guard
from vram_search.web.app import make_app
from vram_search.web.service import Service
from vram_search.web.token import Credentials

PAGE = Path(__file__).parents[1] / "docs" / "security-table.md"
HOST = "127.0.0.1:8416"
TOKEN = "a-token-of-at-least-thirty-two-characters"
EVIL = "http://evil.example"
COOKIE = "vram_search"
HEAD = """# What the service answers to hostile requests

Written by `python -m bench.security_table`, which sends each request to the application. The items
are explained in [service.md](service.md#security); `tests/web/test_security.py` tries more.

| item | request | answer |
| --- | --- | --- |
"""


@dataclass
class Door:
    """The application, for a stranger and for the owner."""

    app: Any
    folder: Path
    credentials: Credentials = field(default_factory=lambda: Credentials(TOKEN))

    def ask(
        self, method: str, path: str, *, owner: bool = True, cookie: str = "", **options: Any
    ) -> str:
        """Sends a request and returns the answer in words: status, place or detail."""
        headers = dict(options.pop("headers", {}))
        if owner and not cookie:
            headers["Authorization"] = f"Bearer {TOKEN}"
        if cookie:
            headers["Cookie"] = f"{COOKIE}={cookie}"
        client = TestClient(
            self.app,
            base_url=f"http://{HOST}",
            follow_redirects=False,
            raise_server_exceptions=False,
        )
        answer = client.request(method, path, headers=headers, **options)
        words = str(answer.status_code)
        if place := answer.headers.get("location"):
            words += f", to `{place}`"
        if set_cookie := answer.headers.get("set-cookie"):
            flags = ("HttpOnly", "SameSite=Strict")
            kept = [one for one in flags if one.lower() in set_cookie.lower()]
            words += f"; cookie {', '.join(kept)}" + ("" if TOKEN in set_cookie else ", no token")
        if "json" in answer.headers.get("content-type", "") and answer.status_code >= 400:
            problem = answer.json()
            words += f": {problem['detail']}"
            if faults := problem.get("faults"):
                words = f"{answer.status_code}: {faults[0]['path']}: {faults[0]['message']}"
        return words.split("\n")[0]

    def study(self, **changes: Any) -> dict[str, str]:
        """The body of a request with a study of which some keys are replaced."""
        study = tiny_study(self.folder)
        for place, value in changes.items():
            part, _, key = place.partition("__")
            if key:
                study[part][key] = value
            else:
                study[part] = value
        return {"study_file": yaml.safe_dump(study)}


@contextmanager
def a_door() -> Iterator[Door]:
    """The application on an empty database in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        os.environ["VRAM_SEARCH_HOME"] = str(folder / "home")
        url = sqlite_url(folder / "search.db")
        with closing(open_store(url, create=True)) as store:
            (folder / "link").symlink_to("/etc")
            service = Service(
                store, url, [folder], folder / "uploads", Credentials(TOKEN), cookie=COOKIE
            )
            yield Door(make_app(service, ["127.0.0.1", "localhost"], None), folder)


def rows(door: Door) -> Iterator[tuple[str, str, str]]:
    """Item, request and answer of each request. Failed logins come last: they close the door."""
    ask, check = door.ask, "/api/v1/studies/validate"
    for path in ("/", "/openapi.json", "/api/v1/queue", "/api/v1/events", "/api/v1/metrics"):
        yield "no login", f"`GET {path}` without a token", ask("GET", path, owner=False)
    html = {"Accept": "text/html"}
    yield "no login", "`GET /` by a browser", ask("GET", "/", owner=False, headers=html)
    yield "link", "`GET /?token=...`", ask("GET", "/", owner=False, params={"token": TOKEN})
    away = ask("GET", f"http://{HOST}//evil.example/", owner=False, params={"token": TOKEN})
    yield "open redirect", "`GET //evil.example/?token=...`", away
    good = door.credentials.session("viewer")
    forged = good.replace("viewer", "owner")
    yield "cookie", "role changed to owner", ask("GET", "/api/v1/queue", cookie=forged)
    other = Credentials("x" * 40).session("owner")
    yield "cookie", "signed with another token", ask("GET", "/api/v1/queue", cookie=other)
    viewer = {"Authorization": f"Bearer {door.credentials.viewer_token}"}
    for method, path in (("POST", "/api/v1/queue/1/cancel"), ("PUT", "/api/v1/uploads/a.jsonl")):
        said = ask(method, path, owner=False, headers=viewer)
        yield "read-only link", f"`{method} {path}`", said
    for host in ("evil.example", "127.0.0.1.evil.example", "["):
        said = ask("GET", "/api/v1/queue", headers={"Host": host})
        yield "DNS rebinding", f"`Host: {host}`", said
    session = door.credentials.session("owner")
    for headers in (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {},
    ):
        shown = ", ".join(f"`{name}: {value}`" for name, value in headers.items())
        said = ask("POST", "/api/v1/queue/1/pause", cookie=session, headers=headers)
        yield "cross-site request", f"POST with the cookie, {shown or 'no Origin'}", said
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    said = ask("OPTIONS", "/api/v1/studies", owner=False, headers=asked)
    yield "CORS", "preflight of another site", said
    large = b"x" * (guard.MOST_BODY_BYTES + 1)
    yield "body size", "1 MiB + 1 byte", ask("POST", check, content=large)
    long = {"X-Long": "x" * 20_000}
    yield "header size", "20,000 bytes", ask("GET", "/api/v1/queue", headers=long)
    for key, value in (
        ("dataset__train", "/etc/passwd"),
        ("dataset__train", "../../../etc/passwd"),
        ("dataset__eval", "link/passwd"),
        ("model__model_name_or_path", "/etc"),
    ):
        said = ask("POST", check, json=door.study(**{key: value}))
        yield "paths", f"`{key.replace('__', '.')}: {value}`", said
    said = ask("POST", check, json=door.study(database="sqlite:////tmp/other.db"))
    yield "database", "a study with a `database:` of its own", said
    said = ask("POST", check, json=door.study(objective="score.py:run"))
    yield "code", "`objective: score.py:run`", said
    said = ask("POST", "/api/v1/estimate", json={"model": "/etc", "card": "16gb"})
    yield "models", "`estimate` of `/etc`", said
    for name in ("..%2Fescape.jsonl", "run.sh"):
        said = ask("PUT", f"/api/v1/uploads/{name}", content=b"{}")
        yield "uploads", f"`PUT {name}`", said
    bomb = {"study_file": "!!python/object/apply:os.system ['true']"}
    yield "YAML", "`!!python/object/apply:os.system`", ask("POST", check, json=bomb)
    said = ask("GET", "/api/v1/studies/..%2F..%2Fetc%2Fpasswd/log")
    yield "logs", "`../../etc/passwd` as the study", said
    said = ask("GET", "/", cookie=good, params={"token": "wrong"})
    yield "wrong token", "`GET /?token=...` beside the cookie of the read-only link", said
    wrong = {"Authorization": "Bearer wrong"}
    answers = [ask("GET", "/api/v1/queue", owner=False, headers=wrong) for _ in range(10)]
    yield "wrong token", "the next one, as `Bearer`", answers[0]
    yield "failed logins", "the eleventh within a minute", answers[-1]


def page() -> str:
    """The table as Markdown."""
    with a_door() as door:
        lines = [
            f"| {item} | {request} | {answer.replace('|', chr(92) + '|')} |"
            for item, request, answer in rows(door)
        ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.security_table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the page only")
    text = page()
    if parser.parse_args().check:
        sys.exit(text != PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
