"""Fits of traced models are asked for once and kept."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vram_search.estimate import trace_process, trace_store
from vram_search.estimate.memory.trace_fit import Candidate, Pass, TraceFit, fit_to_json
from vram_search.estimate.trace_process import TraceProcess, TraceStoppedError
from vram_search.estimate.trace_store import TraceQuery, find_fit, why_untraced
from vram_search.estimate.verdict import generic_reasons
from vram_search.models.tree import read_shape
from vram_search.resources import shipped

ANCHORS = (256, 512, 1024)


class FakeProcess:
    """Answers for exactly the length that it is asked for, as for a model with chunks."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.error = 0.0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request["tokens"])
        one = Pass(
            ((0.0,),), ((0.0,),), ((0.0,),), ((),), {"head": (Candidate((1.0,), ((0.0,),)),)}
        )
        fits = [fit_to_json(TraceFit(((0, 0, 0),), (0,), one, one, (1,)))]
        anchor = min(request["anchors"], key=lambda one: abs(one - request["tokens"]))
        return {"fits": fits, "tokens": [anchor] * 2, "unit": 0, "error": self.error}


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    fake = FakeProcess()
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(tmp_path))
    monkeypatch.setattr(trace_store, "_PROCESS", fake)
    trace_store._fits.cache_clear()
    return fake


def _query(name: str) -> TraceQuery:
    flags = dict.fromkeys(("prepare_for_kbit_training", "reentrant_checkpointing"), False)
    return TraceQuery(
        config="{}",
        lora_target=name,
        gradient_checkpointing=True,
        quantization="nf4",
        double_quantization=True,
        attention="sdpa",
        drops_out=False,
        padded=False,
        several_rows=True,
        **flags,
    )


def test_a_length_is_traced_once_even_by_another_process(process: FakeProcess) -> None:
    assert list(find_fit(_query("q"), 512, ANCHORS)) == [512]
    trace_store._fits.cache_clear()
    assert list(find_fit(_query("q"), 512, ANCHORS)) == [512]
    assert process.asked == [512]


def test_another_length_of_a_model_with_chunks_lies_between_two_anchors(
    process: FakeProcess,
) -> None:
    find_fit(_query("v"), 512, ANCHORS)
    assert list(find_fit(_query("v"), 700, ANCHORS)) == [512, 1024]
    assert process.asked == [512, 1024]


def test_a_fit_that_fails_its_check_is_not_used_and_not_traced_again(process: FakeProcess) -> None:
    process.error = 0.03
    assert find_fit(_query("k"), 512, ANCHORS) == {}
    trace_store._fits.cache_clear()
    trace_store._FAILED.clear()
    assert find_fit(_query("k"), 512, ANCHORS) == {}
    assert process.asked == [512]


def test_a_trace_that_is_stopped_says_why_and_may_be_tried_by_another_process(
    process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(request: dict[str, Any]) -> dict[str, Any]:
        process.asked.append(request["tokens"])
        raise TraceStoppedError("it took more than 10 minutes")

    monkeypatch.setattr(trace_store, "_FAILED", {})
    with monkeypatch.context() as patched:
        patched.setattr(process, "ask", stopped)
        assert find_fit(_query("o"), 512, ANCHORS) == {}
        assert find_fit(_query("o"), 512, ANCHORS) == {}
    assert process.asked == [512]
    assert why_untraced("{}") == "no trace of its code: it took more than 10 minutes"
    assert why_untraced('{"model_type": "other"}') == ""
    trace_store._FAILED.clear()
    trace_store._fits.cache_clear()
    assert list(find_fit(_query("o"), 512, ANCHORS)) == [512]


def test_a_generic_estimate_names_the_trace_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = read_shape(shipped("configs", "models", "falcon-h1-0.5b", "config.json"))
    assert shape.tree is not None
    assert generic_reasons(shape) == shape.not_modelled
    failed = replace(_query("q"), config=shape.tree.config)
    monkeypatch.setattr(trace_store, "_FAILED", {failed: "TypeError: no cache"})
    *reasons, last = generic_reasons(shape)
    assert tuple(reasons) == shape.not_modelled
    assert last == "no trace of its code: TypeError: no cache"


@pytest.mark.parametrize(
    ("seconds", "code", "reason"),
    [
        (0.01, "import time; time.sleep(60)", "it took more than 0 minutes"),
        (60.0, "", "its process ended; is there enough memory?"),
    ],
)
def test_a_trace_ends_at_its_deadline_or_with_its_process(
    seconds: float, code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_process, "MOST_SECONDS", seconds)
    tracer = TraceProcess()
    tracer._process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    monkeypatch.setattr(tracer, "_started", lambda: tracer._process)
    with pytest.raises(TraceStoppedError) as stopped:
        tracer.ask({})
    assert str(stopped.value) == reason
    assert tracer._process is None
