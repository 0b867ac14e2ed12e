"""optuna-dashboard on our database, read-only and for this machine alone.

A study deleted in the browser would be missing from the search that runs, and its pages have no
password. Requests that would change something or that name another host are therefore refused.

Optuna has no state for infeasible trials: they are reported as pruned, and optuna-dashboard 0.21
names a trial by its state alone. Its pages show a state that they do not know as a grey label with
that word (public/bundle.js) and leave such a trial out of their charts, since it never trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from sqlalchemy import create_engine, inspect

from vram_search.errors import InputError
from vram_search.search.storage import engine_arguments
from vram_search.store.faults import describe

HOST = "127.0.0.1"
OWN_NAMES = (HOST, "localhost")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STUDY_PATH = re.compile(r"/api/studies/\d+/?")
_INFEASIBLE = {"key": "outcome", "value": "infeasible"}


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return None


def dashboard_server(url: str, port: int) -> WSGIServer:
    """A server of the dashboard for the searches in a database; `serve_forever` runs it.

    Args:
        url: SQLAlchemy URL of a database that is there.
        port: 0 takes a free one; `server_port` of the server says which.

    Raises:
        InputError: the database holds no search, or the port is taken.
    """
    engine = create_engine(url)
    has_search = inspect(engine).has_table("studies")
    engine.dispose()
    if not has_search:
        raise InputError(
            f"database {describe(url)} holds no search",
            "run one: vram-search run STUDY.yaml; imported runs are shown by vram-search report",
        )
    storage = RDBStorage(
        url,
        engine_kwargs=engine_arguments(url),
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    application = _guarded(_with_infeasible_state(wsgi(storage)))
    try:
        return make_server(HOST, port, application, _Server, _SilentHandler)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used: {error.strerror}", "name another, or leave --port out"
        ) from None


def _guarded(application: Application) -> Application:
    """Refuses requests that write, and those that were sent to another host's name.

    Otherwise a web page could reach the server under its own name (DNS rebinding).
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") and name in OWN_NAMES:
            return application(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "vram-search dashboard shows a study and changes nothing"}']

    return answer


def _with_infeasible_state(application: Application) -> Application:
    """Gives infeasible trials a state of their own in the studies that are sent to the pages."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not _STUDY_PATH.fullmatch(environ["PATH_INFO"]):
            return application(environ, start)
        started: list[Any] = []
        body = b"".join(application(environ, lambda *given: started.extend(given)))
        status, headers, *_ = started
        if status.startswith("200"):
            body = _mark_infeasible(body)
        others = [header for header in headers if header[0].lower() != "content-length"]
        start(status, [*others, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _mark_infeasible(body: bytes) -> bytes:
    """The JSON of a study, with the state of its infeasible trials changed."""
    study = json.loads(body)
    for trial in study["trials"]:
        if _INFEASIBLE in trial["user_attrs"]:
            trial["state"] = "Infeasible"
    return json.dumps(study).encode()
