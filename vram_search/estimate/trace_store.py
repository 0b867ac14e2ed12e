"""Fits of traced models: from the cache, or from `vram_search.trace` in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vram_search.estimate.memory.trace_fit import TraceFit, parse_fit
from vram_search.resources import cache_folder, read_cached_json, write_cached_json

FORMAT = 1
"""Version of the cached files."""
ON = "VRAM_SEARCH_TRACE"
"""Models are traced if this environment variable is not empty: a first estimate takes a minute or
more for each kind of training that it compares."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
FUSED_KERNELS = ("flash-linear-attention", "mamba-ssm", "causal-conv1d")
"""Packages that replace a hybrid's layers; a trace follows the layers without them."""
LARGEST_ERROR = 0.02
"""Largest error of a fit, as a share, at a size that it was not fitted to. A fit with a larger
error is not used."""


@dataclass(frozen=True)
class TraceQuery:
    """One model with one adapter and one kind of training."""

    config: str
    """Its config.json, as JSON."""
    lora_target: str
    """A regular expression for names of modules."""
    gradient_checkpointing: bool
    quantization: str
    double_quantization: bool
    attention: str
    prepare_for_kbit_training: bool
    reentrant_checkpointing: bool
    drops_out: bool
    padded: bool
    several_rows: bool

    def request(self, tokens: int) -> dict[str, Any]:
        """The request of `vram_search.trace`."""
        settings = asdict(self)
        config, several_rows = json.loads(settings.pop("config")), settings.pop("several_rows")
        settings["lora_dropout"] = 0.1 if settings.pop("drops_out") else 0.0
        rows = 2 if several_rows else 1
        return {"config": config, "settings": settings, "rows": rows, "tokens": tokens}


@dataclass(frozen=True)
class RangedFit:
    """A fit and the lengths of a row for which it holds."""

    low: int
    high: int
    fit: TraceFit


def find_fit(query: TraceQuery, tokens: int, anchors: Sequence[int]) -> dict[int, TraceFit]:
    """The fit for a length, or those of the two anchors around it; empty if there is none.

    Args:
        anchors: lengths, in order, between which a model is interpolated that has no fit for a
            range of lengths.
    """
    fits = _fits(query)
    found = _covering(fits, tokens)
    if found is None and not any(one.low == one.high for one in fits):
        found = _trace(query, tokens, fits)
    if found is not None:
        return {tokens: found}
    if not fits or tokens in anchors:
        found = _trace(query, tokens, fits) if fits else None
        return {tokens: found} if found else {}
    high = next((place for place, one in enumerate(anchors) if one > tokens), len(anchors) - 1)
    around = anchors[max(0, high - 1)], anchors[max(1, high)]
    both = {one: _covering(fits, one) or _trace(query, one, fits) for one in around}
    return {} if None in both.values() else {one: fit for one, fit in both.items() if fit}


def _covering(fits: list[RangedFit], tokens: int) -> TraceFit | None:
    return next((one.fit for one in fits if one.low <= tokens <= one.high), None)


@lru_cache(maxsize=256)
def _fits(query: TraceQuery) -> list[RangedFit]:
    """The cached fits of a query; `_trace` appends to them."""
    try:
        return [_ranged(one) for one in read_cached_json(_file(query)) or []]
    except (KeyError, TypeError, ValueError):  # another format
        return []


def _ranged(answer: dict[str, Any]) -> RangedFit:
    low, high = answer["tokens"]
    return RangedFit(low, high, parse_fit(answer["fit"]))


def _file(query: TraceQuery) -> Path:
    versions = [_version(name) for name in (*PACKAGES, *FUSED_KERNELS)]
    text = json.dumps([FORMAT, versions, asdict(query)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_folder() / "traces" / f"{name}.json"


@lru_cache(maxsize=32)
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _trace(query: TraceQuery, tokens: int, fits: list[RangedFit]) -> TraceFit | None:
    if query in _FAILED or find_spec("torch") is None:
        return None
    answer = _PROCESS.ask(query.request(tokens))
    if "fit" not in answer or answer["error"] > LARGEST_ERROR:
        _FAILED.add(query)
        return None
    file = _file(query)
    write_cached_json(file, [*(read_cached_json(file) or []), answer])
    found = _ranged(answer)
    fits.append(found)
    return found.fit if found.low <= tokens <= found.high else None


_FAILED: set[TraceQuery] = set()
"""Queries without an answer, so that each is asked once."""


class _TraceProcess:
    """`python -m vram_search.trace`, started at the first question and kept."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; `{"failed": ...}` if the process died."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            _show("tracing the model's own code on fake tensors, once per model")
            for line in process.stdout:
                message: dict[str, Any] = json.loads(line)
                if "done" not in message:
                    return message
                share = message["done"] / message["all"]
                _show(f"tracing the model's own code: {share:4.0%}")
        except (OSError, ValueError):
            pass
        finally:
            _show("")
        self._process = None
        process.kill()
        with contextlib.suppress(OSError):  # a request that it never read
            process.communicate()
        return {"failed": "the trace process ended"}

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vram_search.trace"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
            atexit.register(self._process.kill)
        return self._process


_PROCESS = _TraceProcess()


def _show(words: str) -> None:
    """Shows progress in one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{words}", end="", file=sys.stderr, flush=True)
