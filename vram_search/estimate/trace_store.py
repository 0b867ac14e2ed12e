"""Fits of traced models: from the cache, or from `vram_search.trace` in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vram_search.estimate.memory.trace_fit import TraceFit, parse_fit
from vram_search.estimate.trace_process import TraceProcess, TraceStoppedError
from vram_search.installed import installed_version
from vram_search.resources import cache_folder, read_cached_json, write_cached_json
from vram_search.units import percent

FORMAT = 6
"""Version of the cached files."""
SWITCH = "VRAM_SEARCH_TRACE"
"""No model is traced where this environment variable is 0."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
FUSED_KERNELS = ("flash-linear-attention", "mamba-ssm", "causal-conv1d")
"""Packages that replace a hybrid's layers. A trace follows the layers' plain torch code, which
needs more."""
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
    use_liger_kernel: bool = False
    prefers_cudnn: bool = False

    def request(self, tokens: int) -> dict[str, Any]:
        """The request of `vram_search.trace`."""
        settings = asdict(self)
        config, several_rows = json.loads(settings.pop("config")), settings.pop("several_rows")
        settings["lora_dropout"] = 0.1 if settings.pop("drops_out") else 0.0
        rows = 2 if several_rows else 1
        return {"config": config, "settings": settings, "rows": rows, "tokens": tokens}


@dataclass(frozen=True)
class RangedFit:
    """Fits and the lengths of a row for which they hold.

    Attributes:
        fits: of the worst routing to experts and of a balanced one, if bytes depend on it;
            otherwise one.
    """

    low: int
    high: int
    fits: tuple[TraceFit, ...]
    unit: int = 0
    """If not 0, the length of the rows that it is of; a longer row counts as several."""


def is_on() -> bool:
    """True if models without a formula are traced."""
    return os.environ.get(SWITCH, "1") not in ("", "0") and find_spec("torch") is not None


def fused_kernels() -> tuple[str, ...]:
    """The installed packages with fused kernels for hybrids."""
    return tuple(name for name in FUSED_KERNELS if installed_version(name))


def why_untraced(config: str) -> str:
    """Why the last trace of a model failed; empty if none did.

    Args:
        config: its config.json, as JSON.
    """
    reasons = [reason for query, reason in _FAILED.items() if query.config == config]
    return f"no trace of its code: {reasons[-1]}" if reasons else ""


def find_fit(query: TraceQuery, tokens: int, anchors: Sequence[int]) -> dict[int, RangedFit]:
    """The fit for a length, or those of the two anchors around it; empty if there is none.

    Args:
        anchors: lengths, in order, between which a model is interpolated that has no fit for a
            range of lengths.
    """
    fits = _fits(query)
    found = _covering(fits, tokens)
    if found is None and not any(one.low == one.high for one in fits):
        found = _trace(query, tokens, anchors, fits)
    if found is not None and found.low <= tokens <= found.high:
        return {tokens: found}
    if not fits:
        return {}
    high = next((place for place, one in enumerate(anchors) if one > tokens), len(anchors) - 1)
    around = anchors[max(0, high - 1)], anchors[max(1, high)]
    both = {one: _covering(fits, one) or _trace(query, one, anchors, fits) for one in around}
    return {} if None in both.values() else {one: fit for one, fit in both.items() if fit}


def _covering(fits: list[RangedFit], tokens: int) -> RangedFit | None:
    return next((one for one in fits if one.low <= tokens <= one.high), None)


@lru_cache(maxsize=1024)
def _fits(query: TraceQuery) -> list[RangedFit]:
    """The cached fits of a query; `_trace` appends to them."""
    answers = read_cached_json(_file(query)) or []
    try:
        if failed := next((one["failed"] for one in answers if "failed" in one), ""):
            _FAILED[query] = failed
            return []
        return [_ranged(one) for one in answers]
    except (KeyError, TypeError, ValueError):  # another format
        return []


def _ranged(answer: dict[str, Any]) -> RangedFit:
    low, high = answer["tokens"]
    return RangedFit(low, high, tuple(map(parse_fit, answer["fits"])), answer["unit"])


def _file(query: TraceQuery) -> Path:
    versions = [installed_version(name) for name in (*PACKAGES, *FUSED_KERNELS)]
    text = json.dumps([FORMAT, versions, asdict(query)], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_folder() / "traces" / f"{name}.json"


def _trace(
    query: TraceQuery, tokens: int, anchors: Sequence[int], fits: list[RangedFit]
) -> RangedFit | None:
    """The fit for a length, or for the anchor next to it; added to `fits` and to the cache."""
    if query in _FAILED:
        return None
    try:
        answer = _PROCESS.ask({**query.request(tokens), "anchors": list(anchors)})
    except TraceStoppedError as stopped:  # it may succeed another time: not kept in a file
        _FAILED[query] = str(stopped)
        return None
    if answer.get("error", 0.0) > LARGEST_ERROR:
        answer = {"failed": f"the fit is {percent(answer['error'], 1)} off where it is checked"}
    file = _file(query)
    write_cached_json(file, [*(read_cached_json(file) or []), answer])
    if "failed" in answer:
        _FAILED[query] = answer["failed"]
        return None
    found = _ranged(answer)
    fits.append(found)
    return found


_FAILED: dict[TraceQuery, str] = {}
"""Queries without an answer and the reason, so that each is asked once."""


_PROCESS = TraceProcess()
