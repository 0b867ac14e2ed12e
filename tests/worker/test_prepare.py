"""Models that a search cannot train are refused before the training process starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY_CONFIG
from tests.factories import make_point
from vram_search.errors import FaultyFileError, InputError
from vram_search.models import find_model
from vram_search.spec import load_study
from vram_search.spec.model import ModelSpec
from vram_search.worker.prepare import _of_trained_weights, prepare
from vram_search.worker.sequences import sequences_an_epoch

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def quantised_folder(folder: Path, quantization: dict[str, Any]) -> Path:
    """A model folder of the tiny model with a `quantization_config`."""
    model = folder / "model"
    model.mkdir()
    values = {**TINY_CONFIG, "quantization_config": quantization}
    (model / "config.json").write_text(json.dumps(values))
    (model / "model.safetensors").write_bytes(b"")
    return model


@pytest.mark.parametrize("method", ["awq", "gptq", "fp8", "mxfp4"])
def test_dry_run_refuses_weights_that_are_quantised_already_in_one_sentence(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
    write_study: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr("vram_search.models.tree.model_tree", _no_class)
    folder = quantised_folder(tmp_path, {"quant_method": method})
    study = write_study(model={"model_name_or_path": str(folder)})
    done = vram_search_without_training("run", study, "--dry-run")
    words = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert f"are quantised already ({method}); a search trains plain weights" in words
    assert "name the model that they were made from, in 16 bits" in words


def _no_class(config: Path) -> None:
    raise InputError("no class here: the formula counts")


def test_four_bits_of_bitsandbytes_are_accepted_and_random_weights_have_no_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vram_search.models.tree.model_tree", _no_class)
    found = find_model(str(quantised_folder(tmp_path, NF4)))
    model = ModelSpec(model_name_or_path=str(tmp_path / "model"))
    assert _of_trained_weights(model, found).checkpoint is not None
    random = ModelSpec(weights="random", shape=str(tmp_path / "model"))
    assert _of_trained_weights(random, found).checkpoint is None


def test_quantised_copy_is_refused_by_its_name() -> None:
    found = find_model("Qwen/Qwen2.5-7B-Instruct-AWQ")
    model = ModelSpec(model_name_or_path="Qwen/Qwen2.5-7B-Instruct-AWQ")
    with pytest.raises(InputError, match=r"Qwen2.5-7B-Instruct-AWQ are quantised already \(awq\)"):
        _of_trained_weights(model, found)


def test_plain_weights_pass(write_study: Callable[..., Path]) -> None:
    assert prepare(load_study(write_study()), lambda _: None).shape.checkpoint is None


def test_rank_above_a_layers_smaller_side_is_refused_for_a_start_from_the_base(
    write_study: Callable[..., Path],
) -> None:
    space = {"lora_rank": [1024], "lora_target": "all", "init_lora_weights": ["olora"]}
    with pytest.raises(FaultyFileError) as fault:
        prepare(load_study(write_study(search_space=space)), lambda _: None)
    assert "search_space.lora_rank" in str(fault.value)
    assert "olora takes a rank of at most" in str(fault.value)


def test_packing_is_refused_for_a_model_that_is_not_known_to_keep_joined_rows_apart(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
    write_study: Callable[..., Path],
) -> None:
    space = {"packing": [True, False]}
    study = write_study(model={"weights": "random", "shape": "falcon-h1-0.5b"}, search_space=space)
    done = vram_search_without_training("run", study, "--dry-run")
    words = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "search_space.packing" in words and "falcon_h1" in words
    assert prepare(load_study(write_study(search_space=space)), lambda _: None).shape


def test_a_packing_trial_makes_fewer_steps_in_an_epoch() -> None:
    rows = (100, 60, 40, 30, 500)
    assert sequences_an_epoch(make_point(cutoff_len=128), rows) == 5
    assert sequences_an_epoch(make_point(cutoff_len=128, packing=True), rows) == 4


def test_dry_run_refuses_a_model_without_a_class_in_transformers(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
    write_study: Callable[..., Path],
) -> None:
    study = write_study(model={"weights": "random", "shape": "minicpm4-8b"})
    done = vram_search_without_training("run", study, "--dry-run")
    words = " ".join(done.stdout.split())
    assert done.returncode == 2
    assert "transformers has no model_type 'minicpm', so it cannot be trained here" in words
    assert "choose a model whose class is in transformers" in words
