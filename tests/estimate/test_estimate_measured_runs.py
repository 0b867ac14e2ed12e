"""Predictions against measured runs: `vram_truth.jsonl`, and our own of more families."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from bench.estimate_accuracy import build_workload
from vram_search.estimate import Estimate, predict
from vram_search.estimate.memory.allocator import CachingAllocator
from vram_search.estimate.memory.replay import Training
from vram_search.estimate.memory.workload import Workload
from vram_search.resources import shipped
from vram_search.spec import load_shape
from vram_search.units import GIB

DATA = Path(__file__).parent.parent / "fixtures"
MODELS = shipped("configs", "models")


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


RUNS = read("vram_truth.jsonl")
OWN = read("vram_measured.jsonl")
TRAINED = [run for run in RUNS + OWN if run["trained"]]
EQUAL = [run for run in TRAINED if run["lengths"] == "full"]
ROOMY = [run for run in EQUAL if not run["cap_gib"] and not run["env"]]


def told(run: dict[str, Any]) -> str:
    return f"{run['model']}, {run['note']}".replace(" ", "_")


def predicted(run: dict[str, Any]) -> Estimate:
    return _predicted(json.dumps(run))


@lru_cache
def _predicted(run: str) -> Estimate:
    return predict(build_workload(json.loads(run), MODELS))


def is_plain(run: dict[str, Any]) -> bool:
    eager_or_int8 = run["attention"] == "eager" or run["quantization"] == "int8"
    return not eager_or_int8 and not run["per_device_eval_batch_size"]


def allocated_error(run: dict[str, Any]) -> float:
    """Predicted against measured, signed: 0.01 is one per cent too much."""
    measured: int = run["max_allocated_bytes"]
    return predicted(run).allocated_bytes / measured - 1


def reserved_error(run: dict[str, Any]) -> float:
    measured: int = run["max_reserved_bytes"]
    return predicted(run).reserved_bytes / measured - 1


def summary(errors: list[float]) -> tuple[float, float, float]:
    """Median, 95th percentile (nearest rank) and worst."""
    sizes = sorted(map(abs, errors))
    return statistics.median(sizes), sizes[math.ceil(0.95 * len(sizes)) - 1], sizes[-1]


def test_there_are_runs_of_every_kind() -> None:
    assert (len(RUNS), len(TRAINED) - len([run for run in RUNS if run["trained"]])) == (72, 77)
    assert sum(not run["trained"] for run in RUNS) == 7
    assert {run["model"] for run in RUNS} == {folder.name for folder in (DATA / "models").iterdir()}


def test_allocated_peak_is_predicted_as_well_as_promised() -> None:
    median, most, worst = summary([allocated_error(run) for run in EQUAL if is_plain(run)])
    assert (median <= 0.003, most <= 0.01, worst <= 0.03) == (True, True, True)


def test_allocated_peak_of_int8_eager_and_evaluations_is_predicted_as_well_as_promised() -> None:
    median, most, worst = summary([allocated_error(run) for run in EQUAL if not is_plain(run)])
    assert (median <= 0.01, most <= 0.03, worst <= 0.05) == (True, True, True)


def test_reserved_bytes_are_predicted_as_well_as_promised() -> None:
    median, most, worst = summary([reserved_error(run) for run in ROOMY if run in RUNS])
    assert (median <= 0.02, most <= 0.05, worst <= 0.10) == (True, True, True)


def test_reserved_bytes_of_more_families_have_a_longer_tail() -> None:
    """One cached block, whole or not, is a tenth of a small run."""
    median, most, worst = summary([reserved_error(run) for run in ROOMY])
    assert (median <= 0.01, most <= 0.11, worst <= 0.20) == (True, True, True)


@pytest.mark.parametrize("run", EQUAL, ids=told)
def test_process_holds_the_context_beyond_what_is_reserved(run: dict[str, Any]) -> None:
    found = predicted(run)
    assert sum(found.parts.values()) == found.process_bytes
    assert found.trainable_parameters == run["trainable_parameters"]


@pytest.mark.parametrize("run", [run for run in RUNS if not run["trained"]], ids=told)
def test_run_that_died_under_a_limit_is_predicted_to_require_more(run: dict[str, Any]) -> None:
    assert predicted(run).required_bytes > run["cap_gib"] * GIB * 0.995


def test_run_that_finished_under_a_limit_is_predicted_to_fit_it_or_nearly() -> None:
    """Where the limit is the tightest that is known to do, required bytes are a little more."""
    capped = [run for run in RUNS if run["cap_gib"] and run["trained"]]
    assert len(capped) == 11
    excess = [predicted(run).required_bytes / (run["cap_gib"] * GIB) - 1 for run in capped]
    assert statistics.median(excess) <= 0
    assert max(excess) <= 0.065


LIMITED = [run for run in RUNS + read("vram_limits.jsonl") if run["cap_gib"] and not run["env"]]


@pytest.mark.parametrize("run", [run for run in LIMITED if not run["trained"]], ids=told)
def test_replay_requires_more_than_a_limit_that_killed_the_run(run: dict[str, Any]) -> None:
    required = predicted(run).with_replay().required_bytes
    assert required > run["cap_gib"] * GIB * 0.995


def test_replay_is_close_to_the_smallest_limits_that_runs_survived() -> None:
    """Of eight trainings under falling limits. The closed form is 8 % too large at worst."""
    smallest: dict[int, float] = {}
    for run in LIMITED:
        if run["trained"]:
            required = predicted(run).with_replay().required_bytes
            smallest[required] = min(run["cap_gib"] * GIB, smallest.get(required, math.inf))
    excess = [required / limit - 1 for required, limit in smallest.items()]
    assert len(excess) == 7
    assert statistics.median(excess) <= 0.01
    assert max(excess) <= 0.015


def test_smallest_limit_continues_from_its_limit_once_or_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts, total = set(), 0
    copies: list[Training] = []
    continued = Training.with_growing_limit

    def counted(training: Training) -> CachingAllocator:
        copies.append(training)
        return continued(training)

    monkeypatch.setattr(Training, "with_growing_limit", counted)
    for run in LIMITED:
        copies.clear()
        total += predicted(run).with_replay().required_bytes
        counts.add(len(copies))
    assert counts == {1, 2, 3}
    assert total == 432_652_792_147, "another figure than until commit b783250"


def test_smallest_limit_is_no_more_than_a_training_without_a_limit_reserves() -> None:
    """Here a request that failed had raised the limit above that."""
    shape = load_shape(MODELS / "qwen2.5-3b")
    workload = Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules("all")),
        lora_rank=16,
        optimizer="adamw_8bit",
        per_device_train_batch_size=4,
        cutoff_len=1024,
        gradient_checkpointing=False,
        fused_linear_cross_entropy=True,
        per_device_eval_batch_size=1,
        eval_cutoff_len=1024,
    )
    assert predict(workload).with_replay().required_bytes == 16_846_567_301


def test_replay_changes_the_required_bytes_alone() -> None:
    run = next(run for run in LIMITED if run["lengths"] == "random")
    closed = predicted(run)
    settled = closed.with_replay()
    assert settled.allocated_bytes <= settled.required_bytes
    assert settled.as_dict() | {"required_bytes": 0} == closed.as_dict() | {"required_bytes": 0}
    expandable = predict(replace(closed.workload, expandable_segments=True))
    assert expandable.with_replay() is expandable


def test_a_single_head_of_keys_and_values_is_repeated_without_a_copy() -> None:
    """Gemma 3 270M with as many tokens as its window: `bench.gpu_families`, H200, 2026-11-30."""
    shape = load_shape(MODELS / "gemma-3-270m")
    workload = Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules("all")),
        lora_rank=16,
        optimizer="adamw_8bit",
        per_device_train_batch_size=2,
        cutoff_len=512,
        gradient_checkpointing=False,
        expandable_segments=True,
    )
    assert predict(workload).allocated_bytes == pytest.approx(4_455_407_104, rel=0.001)
