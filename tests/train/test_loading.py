"""Weights on disk that are not those of the model: refused before any trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from vram_search.errors import InputError
from vram_search.protocol import LoadJob, TrialJob
from vram_search.train import model as base_model
from vram_search.train.load_faults import load_remedy
from vram_search.train.tokenizer import load_tokenizer


@pytest.fixture
def job(load_job: LoadJob, tiny_config: str, tmp_path: Path) -> LoadJob:
    """Loads the tiny model's weights from a folder."""
    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**json.loads(tiny_config))).save_pretrained(folder)
    changes: dict[str, Any] = {"model_name_or_path": str(folder), "random_weights": False}
    return load_job.model_copy(update=changes)


def weights_of(job: LoadJob) -> Path:
    return Path(job.model_name_or_path) / "model.safetensors"


def change_config(job: LoadJob, **changes: int) -> None:
    file = Path(job.model_name_or_path) / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_whole_weights_are_loaded(job: LoadJob) -> None:
    """What the refusals below are measured against."""
    assert base_model.load_base(job).config.num_hidden_layers == 2


@pytest.mark.parametrize("own_code", [{}, {"auto_map": {"AutoConfig": "configuration_a.A"}}])
@pytest.mark.parametrize("random_weights", [False, True])
def test_a_model_without_a_class_is_one_sentence(
    load_job: LoadJob, tmp_path: Path, own_code: dict[str, Any], random_weights: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "minicpm", **own_code}))
    place = {"model_name_or_path": str(tmp_path), "random_weights": random_weights}
    with pytest.raises(InputError) as refused:
        base_model.load_base(load_job.model_copy(update=place))
    assert "code that came with a model is never run here" in refused.value.remedy


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("We couldn't connect to 'https://...' to load the files", "check the network"),
        ("You are trying to access a gated repo.\nMake sure to have access", "set HF_TOKEN"),
        ("x is not a local folder and is not a valid model identifier", "correct the name"),
        ("Unrecognized model", "otherwise"),
    ],
)
def test_remedy_follows_what_the_hub_answered(said: str, remedy: str) -> None:
    assert remedy in load_remedy(OSError(said), "org/name", "otherwise")


def test_model_that_is_not_on_the_hub_has_its_remedy(
    job: LoadJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    away = job.model_copy(update={"model_name_or_path": "org/name-that-is-not-here"})
    with pytest.raises(InputError, match="cannot be loaded: ") as caught:
        base_model.load_base(away)
    assert "hf download org/name-that-is-not-here" in caught.value.remedy
    with pytest.raises(InputError, match="no tokenizer could be loaded") as caught:
        load_tokenizer("org/name-that-is-not-here", None)
    assert "hf download org/name-that-is-not-here" in caught.value.remedy


@pytest.mark.parametrize("size", [0, 4, 1000, 100_000])
def test_download_that_was_cut_off_is_refused(job: LoadJob, size: int) -> None:
    weights_of(job).write_bytes(weights_of(job).read_bytes()[:size])
    with pytest.raises(InputError, match="cannot be loaded: ") as caught:
        base_model.load_base(job)
    assert "is the download complete?" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 3}, "9 weights are missing in its files, model.layers.2."),
        pytest.param(
            {"hidden_size": 128},
            "weights are of another size than in its files, model.",
            marks=pytest.mark.skipif(
                tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23),
                reason="transformers before 5.23 does not report sizes of a quantised model",
            ),
        ),
    ],
)
def test_weights_of_another_model_are_refused(
    job: LoadJob, changes: dict[str, int], words: str
) -> None:
    change_config(job, **changes)
    with pytest.raises(InputError, match="cannot be loaded: ") as caught:
        base_model.load_base(job)
    assert words in caught.value.message


def test_checkpoint_in_bitsandbytes_four_bits_is_loaded_and_gets_an_adapter(
    job: LoadJob, make_job: Callable[..., TrialJob], tmp_path: Path
) -> None:
    base_model.load_base(job).save_pretrained(tmp_path / "nf4")
    values = json.loads((tmp_path / "nf4" / "config.json").read_text())
    assert values["quantization_config"]["quant_method"] == "bitsandbytes"
    changes = {"model_name_or_path": str(tmp_path / "nf4")}
    base = base_model.load_base(job.model_copy(update=changes))
    assert base.model.layers[0].self_attn.q_proj.weight.quant_state is not None
    model = base_model.attach_adapter(base, make_job())
    tokens = torch.arange(10, 26)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert gradients and any(gradient.abs().sum() > 0 for gradient in gradients)
