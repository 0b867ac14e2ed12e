"""A study that lists several base models: names, objective, and the model as a hyperparameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vram_search.search.encoding import decode, distributions, encode
from vram_search.spec import StudySpec
from vram_search.spec.hyperparameters import BY_NAME
from vram_search.spec.initial_points import for_each_model, initial_points

SMALL = {"weights": "random", "shape": "qwen2.5-1.5b"}
LARGE = {"weights": "random", "shape": "qwen2.5-7b", "name": "large"}


MakeStudy = Callable[..., StudySpec]


@pytest.fixture
def study(tmp_path: Path) -> MakeStudy:
    """Builds a study of these base models, on rows in a folder."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 12)

    def make(*models: dict[str, Any], **changes: Any) -> StudySpec:
        written = {"study": "s", "model": list(models), "dataset": {"train": "rows.jsonl"}}
        card = {"name": "toy", "total_bytes": 2**34}
        return StudySpec.model_validate(
            {**written, "card": card, **changes}, context={"folder": tmp_path}
        )

    return make


def test_the_model_is_searched_under_its_short_names(study: MakeStudy) -> None:
    space = study(SMALL, LARGE).space
    assert space.options(BY_NAME["model"]) == ("qwen2.5-1.5b", "large")
    assert "model" in distributions(space)
    point = for_each_model(initial_points(space), ("qwen2.5-1.5b", "large"))[-1]
    assert point.model == "large"
    assert decode(encode(point, space), space) == point


def test_a_list_of_one_model_is_a_study_of_one_model(study: MakeStudy) -> None:
    one = study(SMALL)
    assert one.model_names == ()
    assert one.identity()["model.shape"] == "qwen2.5-1.5b"
    assert not one.space.is_searched(BY_NAME["model"])
    assert "model" not in initial_points(one.space)[0].model_dump()


def test_two_models_with_the_same_name_are_refused(study: MakeStudy) -> None:
    with pytest.raises(ValidationError, match=r"two models are named qwen2\.5-1\.5b.*key `name`"):
        study(SMALL, SMALL)


def test_one_model_under_two_names_is_refused(study: MakeStudy, tmp_path: Path) -> None:
    shape = tmp_path / "config.json"
    shape.write_text("{}")
    one = {"weights": "random", "shape": "config.json", "name": "one"}
    same = {"weights": "random", "shape": f"../{tmp_path.name}/config.json", "name": "two"}
    with pytest.raises(ValidationError, match="one and two are the same model"):
        study(one, SMALL, same)
    assert study(one, {**same, "tokenizer": "org/other"}).model_names == ("one", "two")


def test_models_with_different_tokenizers_compare_by_bits_per_byte(study: MakeStudy) -> None:
    same = study(SMALL, LARGE)
    other = study(SMALL, {**LARGE, "tokenizer": "org/tokenizer"})
    assert same.ranked_by.name == "eval_loss"
    assert other.ranked_by.name == other.identity()["objective"] == "bits_per_byte"
    assert other.for_model("large").ranked_by.name == "bits_per_byte"


def test_eval_loss_is_refused_for_models_with_different_tokenizers(study: MakeStudy) -> None:
    with pytest.raises(ValidationError, match="set objective: bits_per_byte"):
        study(SMALL, {**LARGE, "tokenizer": "org/tokenizer"}, objective="eval_loss")


def test_initial_points_are_shared_out_and_grouped_by_model(study: MakeStudy) -> None:
    points = initial_points(study(SMALL).space)[:3]
    models = [point.model for point in for_each_model(points, ("a", "b"))]
    assert models == ["a", "a", "b", "b"]
    assert [one.model for one in for_each_model(points[:1], ("a", "b"))] == ["a", "b"]
