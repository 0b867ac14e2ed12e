"""optuna-dashboard on our database: on this machine alone, and to look only.

A study deleted in the browser would be missing from the search that runs, and its pages have no
password: requests that change something, or that name another host, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import RDBStorage
from optuna_dashboard import wsgi
from sqlalchemy import create_engine, inspect

from vram_search.errors import InputError
from vram_search.search.study import patience
from vram_search.store.faults import describe

HOST = "127.0.0.1"
OWN_NAMES = (HOST, "localhost")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


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
        engine_kwargs=patience(url),
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    try:
        return make_server(HOST, port, _guarded(wsgi(storage)), _Server, _SilentHandler)
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used: {error.strerror}", "name another, or leave --port out"
        ) from None


def _guarded(application: Application) -> Application:
    """Lets through what reads and was meant for this machine.

    A page of the web could otherwise reach the server under a name of its own (DNS rebinding).
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        name = urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname
        if environ["REQUEST_METHOD"] in ("GET", "HEAD") and name in OWN_NAMES:
            return application(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "vram-search dashboard shows a study and changes nothing"}']

    return answer
