"""What is loaded is compared with what was predicted, before any trial."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from tests.model_code.built import shape_of
from tests.model_code.configs import MIXTRAL, SIZES, TINY
from vram_search.protocol import LoadJob
from vram_search.spec.base_storage import (
    difference_words,
    predicted_storage,
    storage_of,
    unquantised_words,
)
from vram_search.spec.model_tree import parse_tree
from vram_search.spec.shape import parse_shape
from vram_search.train import model as base_model
from vram_search.train.storage import differing_tree

TIED = {**SIZES, "model_type": "qwen3", "tie_word_embeddings": True}
MOE = ("olmoe", "mixtral", "gpt_oss")


def load(values: dict[str, Any], load_job: LoadJob, folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(values))
    changes = {"model_name_or_path": str(folder)}
    return base_model.load_base(load_job.model_copy(update=changes))


@pytest.mark.parametrize("name", TINY)
def test_families_are_loaded_as_their_trees_predict(
    name: str, load_job: LoadJob, tmp_path: Path
) -> None:
    base = load(TINY[name], load_job, tmp_path)
    predicted = predicted_storage(shape_of(TINY[name]))
    assert differing_tree(base, predicted) is None
    assert bool(predicted.experts) is (name in MOE)


def test_modelled_family_with_tied_embeddings_is_loaded_as_its_formula_predicts(
    load_job: LoadJob, tmp_path: Path
) -> None:
    shape = parse_shape(TIED, "config.json")
    assert shape.tree is None, "a formula predicts it"
    assert differing_tree(load(TIED, load_job, tmp_path), predicted_storage(shape)) is None
    untied = parse_shape({**TIED, "tie_word_embeddings": False}, "config.json")
    assert differing_tree(load(TIED, load_job, tmp_path), predicted_storage(untied)) is not None


def test_own_linear_layers_of_a_model_are_named_because_nothing_quantises_them() -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    words = unquantised_words(shape_of({**sizes, "model_type": "falcon"}))
    assert "the layers FalconLinear stay in 16 bits" in words
    assert unquantised_words(shape_of(TINY["stablelm"])) == ""
    assert "the experts stay in 16 bits" in unquantised_words(shape_of(MIXTRAL))


@pytest.mark.parametrize("name", MOE)
def test_experts_that_were_predicted_in_nf4_are_named_with_their_bytes(
    name: str, load_job: LoadJob, tmp_path: Path
) -> None:
    base = load(TINY[name], load_job, tmp_path)
    really = predicted_storage(shape_of(TINY[name]))
    hoped = replace(
        really,
        nf4=really.nf4 + really.experts,
        sixteen_bit=really.sixteen_bit - really.experts,
        experts=0,
    )
    found = differing_tree(base, hoped)
    assert found is not None
    loaded = storage_of(parse_tree(found))
    assert loaded == really
    words = difference_words(hoped, loaded)
    assert "the experts stay in 16 bits: " in words
    assert "bitsandbytes#1849" in words


def test_weights_from_files_are_loaded_as_predicted(load_job: LoadJob, tmp_path: Path) -> None:
    MixtralForCausalLM(MixtralConfig(**MIXTRAL)).save_pretrained(tmp_path)
    changes = {"model_name_or_path": str(tmp_path), "random_weights": False}
    base = base_model.load_base(load_job.model_copy(update=changes))
    values = json.loads((tmp_path / "config.json").read_text())
    assert differing_tree(base, predicted_storage(shape_of(values))) is None


def test_nothing_is_compared_without_a_prediction(load_job: LoadJob, tmp_path: Path) -> None:
    assert differing_tree(load(TIED, load_job, tmp_path), None) is None
