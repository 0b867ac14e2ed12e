"""Fits of traced models are asked for once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vram_search.estimate import trace_store
from vram_search.estimate.memory.trace_fit import Candidate, Pass, TraceFit, fit_to_json
from vram_search.estimate.trace_store import TraceQuery, find_fit

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
