"""Hyperparameters that a study searches only if it names them: values, conditions, lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_point, make_space
from vram_search.errors import FaultyFileError
from vram_search.search.encoding import decode, distributions, encode
from vram_search.search.problem import Problem
from vram_search.spec.hyperparameters import BY_NAME, DIMENSIONS
from vram_search.spec.initial_points import initial_points
from vram_search.spec.load import load_study
from vram_search.spec.study import TrainingSpec, complete_space

EVERYTHING: dict[str, Any] = {
    "use_rslora": [True, False],
    "use_dora": [True, False],
    "init_lora_weights": ["default", "pissa", "olora"],
    "loraplus_lr_ratio": {"min": 1, "max": 32},
    "neftune_noise_alpha": [0, 5],
    "packing": [True, False],
    "weight_decay": [0, 0.1],
    "lr_scheduler_type": ["cosine", "linear"],
    "warmup_ratio": {"min": 0, "max": 0.1},
    "num_train_epochs": [1, 2, 4],
    "seed": [1, 2, 3],
}


def test_every_further_hyperparameter_goes_to_the_sampler_and_back() -> None:
    space = complete_space(make_space(**EVERYTHING), TrainingSpec(), 42)
    assert {name.removesuffix("_index") for name in distributions(space)} >= EVERYTHING.keys()
    for point in initial_points(space):
        assert space.contains(point)
        assert decode(encode(point, space), space) == point


def test_points_of_a_study_that_searches_none_of_them_are_recorded_as_before() -> None:
    space = complete_space(make_space(), TrainingSpec(weight_decay=0.1), 42)
    (point, *_) = initial_points(space)
    assert not EVERYTHING.keys() & point.model_dump(mode="json").keys()


def test_loraplus_applies_with_adamw_alone() -> None:
    space = make_space(optim=["lion_8bit", "adamw_8bit"], loraplus_lr_ratio=[4, 16])
    lion = space.point({"optim": "lion_8bit", "loraplus_lr_ratio": 16})
    adamw = space.point({"optim": "adamw_8bit", "loraplus_lr_ratio": 16})
    assert (lion.loraplus_lr_ratio, adamw.loraplus_lr_ratio) == (1, 16)
    assert space.contains(lion) and decode(encode(lion, space), space) == lion


def test_trials_before_a_setting_was_searched_count_with_the_studys_setting() -> None:
    space = complete_space(make_space(weight_decay=[0.0, 0.1]), TrainingSpec(weight_decay=0.1), 42)
    earlier = make_point()
    assert earlier.weight_decay is None and space.contains(earlier)
    assert decode(encode(earlier, space), space).weight_decay == 0.1


def test_a_points_settings_take_the_place_of_the_studys(write_study: Callable[..., Path]) -> None:
    study = load_study(write_study(training={"rungs": [0.25, 0.5]}))
    study = study.model_copy(update={"search_space": make_space(**EVERYTHING)})
    long = study.training_of(make_point(num_train_epochs=4, weight_decay=0.1))
    short = study.training_of(make_point(num_train_epochs=2, lr_scheduler_type="linear"))
    assert (long.num_train_epochs, long.weight_decay, long.rungs) == (4, 0.1, (0.25, 0.5))
    assert (short.num_train_epochs, short.lr_scheduler_type) == (2, "linear")
    assert short.rungs == (0.5,), "a rung is a share of the longest training"


def test_losses_of_short_and_long_trainings_are_compared_at_equal_steps() -> None:
    problem = Problem(make_space(num_train_epochs=[1, 4]), rungs=(0.125, 0.5))
    assert problem.rung(0.5, make_point(num_train_epochs=1)) == 0
    assert problem.rung(0.5, make_point(num_train_epochs=4)) == 1


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("loraplus_lr_ratio", [0.5]),
        ("neftune_noise_alpha", [-1]),
        ("weight_decay", {"min": 0, "max": 2}),
        ("warmup_ratio", [1.0]),
        ("num_train_epochs", [0]),
        ("lr_scheduler_type", ["exotic"]),
        ("use_dora", ["yes"]),
        ("packing", ["neat"]),
        ("init_lora_weights", ["gaussian"]),
        ("seed", [-1]),
    ],
)
def test_value_out_of_range_is_named_with_its_place(
    part: str, value: Any, write_study: Callable[..., Path]
) -> None:
    with pytest.raises(FaultyFileError) as fault:
        load_study(write_study(search_space={part: value}))
    assert f"search_space.{part}" in str(fault.value)


def test_start_from_the_base_is_refused_where_every_adapter_is_dora(
    write_study: Callable[..., Path],
) -> None:
    pinned = {"use_dora": True, "init_lora_weights": ["olora"]}
    with pytest.raises(FaultyFileError, match="init_lora_weights olora needs use_dora: false"):
        load_study(write_study(search_space=pinned))
    both = make_space(**{**pinned, "use_dora": [True, False]})
    assert both.point({"use_dora": True}).init_lora_weights == "default"
    assert both.point({"use_dora": False}).init_lora_weights == "olora"


def test_epochs_are_not_searched_beside_a_fixed_number_of_steps(
    write_study: Callable[..., Path],
) -> None:
    with pytest.raises(FaultyFileError, match="exclude each other"):
        load_study(write_study(search_space={"num_train_epochs": [1, 2]}))


def test_every_dimension_of_the_table_is_a_field_of_points_and_spaces() -> None:
    names = [dimension.name for dimension in DIMENSIONS]
    assert list(make_point().__class__.model_fields) == names
    listed_elsewhere = {"model"}  # the study file lists base models under `model`
    assert set(make_space().__class__.model_fields) == set(names) - listed_elsewhere
    assert BY_NAME["use_dora"].shown(True) == "yes"
