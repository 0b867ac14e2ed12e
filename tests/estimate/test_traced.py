"""Which traces a prediction is put together from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vram_search.estimate import trace_store
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory.trace_fit import Candidate, Pass, TraceFit
from vram_search.estimate.memory.traced import traced_peaks
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.trace_store import RangedFit, TraceQuery
from vram_search.models.tree import read_shape
from vram_search.resources import shipped


def fit_of(bytes_: float) -> TraceFit:
    head = (Candidate((bytes_,), ((0.0,),)),)
    one = Pass(((0.0,),), ((0.0,),), ((0.0,),), ((),), {"head": head})
    return TraceFit(((0, 0, 0),), (0,), one, one, (1,))


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Workload:
    monkeypatch.setenv("VRAM_SEARCH_HOME", str(tmp_path))
    monkeypatch.setattr(trace_store, "is_on", lambda: True)
    shape = read_shape(shipped("configs", "models", "ernie-4.5-0.3b", "config.json"))
    return Workload(shape, ("q_proj",), 8, "adamw_8bit", 2, 128, equal_lengths=False)


@pytest.mark.parametrize(("padded_bytes", "whole_bytes"), [(7.0, 5.0), (5.0, 7.0)])
def test_rows_of_different_lengths_need_what_the_worse_of_their_batches_needs(
    workload: Workload,
    monkeypatch: pytest.MonkeyPatch,
    padded_bytes: float,
    whole_bytes: float,
) -> None:
    def find_fit(query: TraceQuery, tokens: int, anchors: object) -> dict[int, RangedFit]:
        fit = fit_of(padded_bytes if query.padded else whole_bytes)
        return {tokens: RangedFit(1, 1000, (fit,))}

    def peak(one: Workload) -> float:
        found = traced_peaks(one)
        assert found is not None
        return found.training.total

    monkeypatch.setattr(trace_store, "find_fit", find_fit)
    assert peak(workload) == 7.0
    assert peak(replace(workload, equal_lengths=True)) == whole_bytes
    assert peak(replace(workload, per_device_train_batch_size=1)) == whole_bytes


@pytest.mark.parametrize("prefers_cudnn", [True, False])
def test_the_trace_is_of_the_attention_kernel_that_the_card_takes(
    workload: Workload, monkeypatch: pytest.MonkeyPatch, prefers_cudnn: bool
) -> None:
    def find_fit(query: TraceQuery, tokens: int, anchors: object) -> dict[int, RangedFit]:
        assert query.request(tokens)["settings"]["prefers_cudnn"] is prefers_cudnn
        return {tokens: RangedFit(1, 1000, (fit_of(3.0),))}

    monkeypatch.setattr(trace_store, "find_fit", find_fit)
    one = replace(workload, per_device_eval_batch_size=2, eval_cutoff_len=64)
    assert predict(one, Hardware(prefers_cudnn=prefers_cudnn)).is_traced


def test_the_worse_routing_to_experts_counts_and_is_named(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_fit(query: TraceQuery, tokens: int, anchors: object) -> dict[int, RangedFit]:
        assert json.loads(query.config)
        return {tokens: RangedFit(1, 1000, (fit_of(3.0), fit_of(4.0)))}

    monkeypatch.setattr(trace_store, "find_fit", find_fit)
    found = traced_peaks(workload)
    assert found is not None and found.training.total == 4.0
    assert found.routing == "balanced"
