"""Infeasible trials under their own name on optuna-dashboard's pages.

Optuna has no such state: it is told "pruned", and optuna-dashboard 0.21 names a trial by its state
alone. A state that its pages do not know becomes a grey chip with that word (public/bundle.js), and
their charts leave the trial out: it never trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIServer

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STUDY = re.compile(r"/api/studies/\d+/?")
_INFEASIBLE = {"key": "outcome", "value": "infeasible"}


def name_infeasible(server: WSGIServer) -> None:
    """From now on the studies that the dashboard's server sends to its pages have the state."""
    application = server.get_app()
    assert application is not None
    server.set_app(_naming(application))


def _naming(application: Application) -> Application:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not _STUDY.fullmatch(environ["PATH_INFO"]):
            return application(environ, start)
        started: list[Any] = []
        body = b"".join(application(environ, lambda *given: started.extend(given)))
        status, headers, *_ = started
        if status.startswith("200"):
            body = _named(body)
        others = [header for header in headers if header[0].lower() != "content-length"]
        start(status, [*others, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def _named(body: bytes) -> bytes:
    study = json.loads(body)
    for trial in study["trials"]:
        if _INFEASIBLE in trial["user_attrs"]:
            trial["state"] = "Infeasible"
    return json.dumps(study).encode()
