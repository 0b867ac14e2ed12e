"""A study of several base models: what is left out, rows in common, and the forecast."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.tiny import TINY_CONFIG
from vram_search.errors import InputError
from vram_search.estimate.night import forecast_night, seconds_of
from vram_search.spec import load_study
from vram_search.worker.base_models import PROCESS_SECONDS, guessed_loading
from vram_search.worker.forecast import forecast_study, full_trial_seconds
from vram_search.worker.parallel import parallel_trials, typical_plans
from vram_search.worker.prepare import Prepared, prepare
from vram_search.worker.stop_rule import StopRule

SMALL = {"name": "small", "weights": "random", "shape": "shape"}
DEEP = {"name": "deep", "weights": "random", "shape": "deep"}
HUGE = {"name": "huge", "weights": "random", "shape": "qwen2.5-72b"}
TRAINING = {"num_train_epochs": 900, "rungs": [0.5]}
Prepare = Callable[..., Prepared]


@pytest.fixture
def prepare_models(home: Path, tmp_path: Path, write_study: Callable[..., Path]) -> Prepare:
    """Prepares a study of these base models; `notes` takes the sentences."""
    (tmp_path / "deep").mkdir()
    deep = {**TINY_CONFIG, "num_hidden_layers": 40}
    (tmp_path / "deep" / "config.json").write_text(json.dumps(deep))

    def of(*models: dict[str, Any], notes: list[str] | None = None) -> Prepared:
        file = write_study(model=list(models), objective="bits_per_byte", training=TRAINING)
        return prepare(load_study(file), (notes if notes is not None else []).append)

    return of


def test_model_that_cannot_fit_is_left_out_with_its_bytes(prepare_models: Prepare) -> None:
    notes: list[str] = []
    prepared = prepare_models(HUGE, SMALL, DEEP, notes=notes)
    assert [one.name for one in prepared.each] == ["small", "deep", "huge"]
    assert [bool(one.left_out) for one in prepared.each] == [False, False, True]
    assert any(note.startswith("model huge is left out: ") and "GiB" in note for note in notes)
    assert [one["name"] for one in prepared.model_record()["models"]] == ["huge", "small", "deep"]


def test_study_of_models_that_all_do_not_fit_is_an_input_error(prepare_models: Prepare) -> None:
    with pytest.raises(InputError, match="no base model of study tiny can be searched"):
        prepare_models(HUGE, {**HUGE, "shape": "llama-3.1-70b", "name": "huge-too"})


def test_models_are_compared_on_the_same_rows(prepare_models: Prepare) -> None:
    prepared = prepare_models(SMALL, DEEP)
    assert all(one.rows is prepared.rows for one in prepared.each)
    assert prepared.of({"model": "deep"}).shape.num_hidden_layers == 40
    assert prepared.of({"model": "small"}).owns({"model": "small"})


def test_forecast_is_the_mean_of_the_models_that_fit(prepare_models: Prepare) -> None:
    stop = StopRule(5)
    small, deep = (full_trial_seconds(prepare_models(one), stop) for one in (SMALL, DEEP))
    assert small is not None and deep is not None
    assert deep > 2 * small
    for models in ((SMALL, DEEP), (DEEP, HUGE, SMALL)):
        both = full_trial_seconds(prepare_models(*models), stop)
        assert both == pytest.approx(statistics.fmean((small, deep)), rel=0.01)


def test_trials_at_once_are_decided_by_the_plans_of_every_model_that_fits(
    prepare_models: Prepare,
) -> None:
    both = prepare_models(SMALL, DEEP, HUGE)
    layers = [
        planned.estimate.workload.shape.num_hidden_layers
        for candidates in typical_plans(both, [], has_gpu=False)
        for planned in candidates
    ]
    assert set(layers) == {2, 40}


def test_model_that_fits_no_part_of_the_card_is_named(prepare_models: Prepare) -> None:
    notes: list[str] = []
    large = {**HUGE, "name": "large", "shape": "qwen2.5-7b"}
    prepared = prepare_models(SMALL, large)
    prepared = replace(prepared, study=prepared.study.model_copy(update={"parallel_trials": 4}))
    assert parallel_trials(prepared, [], notes.append) == 4
    assert any("no typical plan of model large fits such a part" in note for note in notes)
    assert not any("model small" in note for note in notes)


def test_loading_takes_its_part_of_a_forecast_of_several_models(prepare_models: Prepare) -> None:
    one, two = prepare_models(SMALL), prepare_models(SMALL, DEEP)
    loading = guessed_loading(two)
    assert guessed_loading(one) == 0
    assert loading > 2 * PROCESS_SECONDS
    full = full_trial_seconds(two, StopRule(5))
    assert full is not None
    by_trials = forecast_study(two, StopRule(5))
    assert by_trials is not None
    assert by_trials.trials == forecast_night(full, seconds_of(5, full)).trials
    assert by_trials.seconds == pytest.approx(seconds_of(5, full) + loading)
    night = forecast_study(two, StopRule(None, None, time.monotonic() + 20 * full + loading))
    assert night is not None
    assert abs(night.trials - forecast_night(full, 20 * full).trials) <= 1
