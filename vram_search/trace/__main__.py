"""Answers requests for traces: a JSON line on stdin, lines of progress and an answer on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

FUSED_KERNELS = ("fla", "mamba_ssm", "causal_conv1d")
"""Modules with kernels that do not run on fake tensors."""


def main() -> None:
    """Reads requests until stdin is closed.

    A request has `config` (of a config.json), `settings` (of TraceSettings), `rows`, `tokens` and
    `anchors`. Answers: `{"done": 1, "all": 3}` while it works, then `{"fits": [...], "tokens":
    [low, high], "unit": ..., "error": ...}`, or `{"failed": "reason"}`.
    """
    for name in FUSED_KERNELS:
        sys.modules[name] = None  # type: ignore[assignment]  # transformers finds no such package
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    out = sys.stdout

    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=out, flush=True)

    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        for line in sys.stdin:
            try:
                send(answer(json.loads(line), send))
            except Exception as error:  # a model's code may fail in any way
                first = (str(error).strip().splitlines() or [""])[0]
                send({"failed": f"{type(error).__name__}: {first[:300]}"})


def answer(request: dict[str, Any], send: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The answer to one request."""
    from vram_search.estimate.memory.trace_fit import fit_to_json
    from vram_search.model_code.light_imports import light_imports

    with light_imports():
        from vram_search.trace.settings import Batch, TraceSettings
        from vram_search.trace.tracer import trace

    settings = TraceSettings(**request["settings"])
    batch = Batch(request["rows"], request["tokens"])
    found = trace(
        request["config"],
        settings,
        batch,
        lambda done, count: send({"done": done, "all": count}),
        anchors=request["anchors"],
    )
    return {
        "fits": [fit_to_json(fit) for fit in found.fits],
        "tokens": found.scope.tokens,
        "unit": found.scope.unit,
        "error": found.error,
    }


if __name__ == "__main__":
    main()
