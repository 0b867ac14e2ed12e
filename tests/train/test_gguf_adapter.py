"""Adapters as GGUF files: llama.cpp's names and order of rows, read back; refused kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

from tests.train.test_merge import ALL, job_for, save_adapter, save_base, tiny_llama
from tests.train.test_ollama import SIZES
from vram_search.errors import InputError
from vram_search.protocol import GgufAdapterJob
from vram_search.train.adapter_weights import AdapterWeights
from vram_search.train.gguf_adapter import write_gguf_adapter
from vram_search.train.merge import merge
from vram_search.train.ollama_adapter import write_ollama_adapter
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.train.write_gguf import write_gguf


def tensors_of(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a GGUF file in fp32, (outputs, inputs)."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        pytest.param(LlamaConfig(**SIZES, tie_word_embeddings=False), {}, id="llama"),
        pytest.param(Qwen2Config(**SIZES, tie_word_embeddings=True), {"use_rslora": True}, id="q2"),
        pytest.param(
            Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
            {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"o_proj": 3}},
            id="qwen3, unequal ranks and alphas",
        ),
    ],
)
def test_base_and_adapter_in_gguf_are_the_merged_model_in_gguf(
    tmp_path: Path, config: Any, settings: dict[str, Any]
) -> None:
    base = save_base(tmp_path / "base", config)
    save_adapter(base, tmp_path / "adapter", target_modules=ALL, **settings)
    merge(job_for(tmp_path), lambda note: None)
    for name in ("base", "merged"):
        file = tmp_path / f"{name}.gguf"
        write_gguf(tmp_path / name, config, byte_tokenizer(), file, "bf16", end_token=2)
    write_gguf_adapter(AdapterWeights(tmp_path / "adapter"), config, tmp_path / "adapter.gguf")

    weights, merged = tensors_of(tmp_path / "base.gguf"), tensors_of(tmp_path / "merged.gguf")
    adapter = tensors_of(tmp_path / "adapter.gguf")
    fields = gguf.GGUFReader(tmp_path / "adapter.gguf").fields
    alpha = fields["adapter.lora.alpha"].contents()
    assert fields["general.type"].contents() == "adapter"
    assert fields["adapter.type"].contents() == "lora"
    assert len(adapter) == 2 * len(ALL) * 2
    for name in {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in adapter}:
        a, b = adapter[f"{name}.lora_a"], adapter[f"{name}.lora_b"]
        ours = weights[name] + b @ a * (alpha / a.shape[0])  # llama.cpp: alpha / b->ne[0]
        np.testing.assert_allclose(ours, merged[name], rtol=1e-2, atol=1e-3, err_msg=name)
        assert not np.allclose(weights[name], merged[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"target_modules": ALL, "use_dora": True}, "is a DoRA"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "changes the embeddings"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "trained lm_head"),
    ],
)
def test_adapter_that_llama_cpp_cannot_load_is_refused_in_one_sentence(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    config = tiny_llama(tie_word_embeddings=False)
    save_adapter(save_base(tmp_path / "base", config), tmp_path / "adapter", **settings)
    with pytest.raises(InputError, match=reason) as refused:
        write_gguf_adapter(AdapterWeights(tmp_path / "adapter"), config, tmp_path / "a.gguf")
    assert refused.value.remedy == "write the merged model instead: --to ollama"
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("ollama_base", [None, "llama3.2:1b"])
def test_folder_holds_adapter_and_modelfile_and_has_the_merged_models_loss(
    tmp_path: Path, ollama_base: str | None
) -> None:
    base = save_base(tmp_path / "base", tiny_llama(hidden_size=64, intermediate_size=64))
    save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    merged, folder = job_for(tmp_path, measure=True), tmp_path / "ollama"
    expected = merge(merged, lambda note: None)
    job = GgufAdapterJob(
        merge=merged.model_copy(update={"target": str(folder)}),
        kind="bf16",
        ollama_base=ollama_base,
        comments=(),
    )
    found = write_ollama_adapter(job, lambda note: None)
    files = {file.name for file in folder.iterdir()}
    lines = (folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "ADAPTER ./adapter.gguf"
    if ollama_base is None:
        assert files == {"adapter.gguf", "model.gguf", "Modelfile"}
        assert lines[0] == "FROM ./model.gguf"
    else:
        assert files == {"adapter.gguf", "Modelfile"} and lines[0] == "FROM llama3.2:1b"
    assert found.eval_loss == pytest.approx(expected.eval_loss, abs=0.01)


def test_rows_of_a_head_are_restored_as_they_were() -> None:
    from vram_search.train.gguf_adapter import _restored
    from vram_search.train.write_gguf import interleave

    weight = torch.arange(48.0).reshape(16, 3)
    assert not torch.equal(interleave(weight, 2), weight)
    torch.testing.assert_close(_restored(interleave(weight, 2), 2), weight)
