"""An adapter merged tensor by tensor is what peft's `merge_and_unload` makes of the whole model."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from vram_search.errors import InputError
from vram_search.protocol import LoadJob, MergeJob
from vram_search.spec.dataset import DatasetSpec
from vram_search.train.fingerprints import base_fingerprints
from vram_search.train.merge import merge
from vram_search.train.stop_tokens import stop_tokens
from vram_search.train.tokenizer import byte_tokenizer, load_tokenizer

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(**changes: Any) -> LlamaConfig:
    values: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        **changes,
    }
    return LlamaConfig(**values)


def save_base(folder: Path, config: Any, max_shard_size: str = "1GB") -> Any:
    """A base model with random weights in bf16, and its tokenizer; returns it in fp32."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    byte_tokenizer().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_adapter(base: Any, folder: Path, **settings: Any) -> Any:
    """An adapter whose every tensor is random; returns base and adapter."""
    model = get_peft_model(base, LoraConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.requires_grad:
            parameter.data.mul_(1.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of embedding layers that are saved, too
        model.save_pretrained(folder)
    return model


def job_for(tmp_path: Path, **changes: Any) -> MergeJob:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(json.dumps({"instruction": f"{n}?", "output": "yes"}) for n in range(6))
    )
    load = LoadJob(
        model_name_or_path=str(tmp_path / "base"),
        random_weights=False,
        tokenizer=str(tmp_path / "base"),
        dataset=DatasetSpec(train=str(rows), val_size=2),
        seed=7,
        cutoff_lens=(128,),
        eval_cutoff_len=128,
    )
    values = {
        "load": load,
        "adapter_folder": str(tmp_path / "adapter"),
        "target": str(tmp_path / "merged"),
        "measure": False,
        **changes,
    }
    return MergeJob.model_validate(values)


def merged_by_peft(model: Any) -> dict[str, torch.Tensor]:
    return {name: t.to(torch.bfloat16) for name, t in model.merge_and_unload().state_dict().items()}


def merged_here(tmp_path: Path) -> dict[str, torch.Tensor]:
    merge(job_for(tmp_path), lambda note: None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.bfloat16)
    found: dict[str, torch.Tensor] = loaded.state_dict()
    return found


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-2, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"target_modules": ALL}, id="lora"),
        pytest.param({"target_modules": ALL, "use_rslora": True}, id="rslora"),
        pytest.param({"target_modules": ALL, "use_dora": True}, id="dora"),
        pytest.param(
            {
                "target_modules": ALL,
                "alpha_pattern": {"q_proj": 32, r"layers\.1\.mlp\.up_proj": 2},
                "rank_pattern": {"v_proj": 2},
            },
            id="patterns",
        ),
    ],
)
@pytest.mark.parametrize("shards", ["1GB", "20KB"])
def test_linear_layers_are_merged_as_by_peft(
    tmp_path: Path, settings: dict[str, Any], shards: str
) -> None:
    base = save_base(tmp_path / "base", tiny_llama(), shards)
    before = base.model.layers[0].self_attn.q_proj.weight.to(torch.bfloat16).clone()
    model = save_adapter(base, tmp_path / "adapter", **settings)
    ours = merged_here(tmp_path)
    assert_same(ours, merged_by_peft(model))
    assert not torch.equal(ours["model.layers.0.self_attn.q_proj.weight"], before)
    several = len(list((tmp_path / "base").glob("*.safetensors")))
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) == several
    assert (several > 1) == (shards == "20KB")


def test_untied_head_and_embedding_are_merged_as_by_peft(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama(tie_word_embeddings=False))
    targets = [*ALL, "embed_tokens", "lm_head"]
    model = save_adapter(base, tmp_path / "adapter", target_modules=targets)
    assert_same(merged_here(tmp_path), merged_by_peft(model))


def test_modules_trained_whole_replace_the_bases(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama(tie_word_embeddings=False))
    model = save_adapter(
        base, tmp_path / "adapter", target_modules=ALL, modules_to_save=["lm_head", "embed_tokens"]
    )
    assert_same(merged_here(tmp_path), merged_by_peft(model))


def test_transposed_layers_are_merged_as_by_peft(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    base = save_base(tmp_path / "base", config)
    targets = ["c_attn", "c_proj", "c_fc"]
    model = save_adapter(base, tmp_path / "adapter", target_modules=targets, fan_in_fan_out=True)
    assert_same(merged_here(tmp_path), merged_by_peft(model))


def test_head_that_was_tied_gets_a_weight_of_its_own(tmp_path: Path) -> None:
    """merge_and_unload would change the input embedding too, which the training did not."""
    base = save_base(tmp_path / "base", tiny_llama())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of the tied weights
        model = save_adapter(base, tmp_path / "adapter", target_modules=["lm_head", "q_proj"])
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    merge(job_for(tmp_path), lambda note: None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not merged.config.tie_word_embeddings
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, expected, rtol=0.05, atol=0.02)


def test_merged_model_is_measured_with_its_own_tokenizer_and_template(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama())
    save_adapter(base, tmp_path / "adapter", target_modules=ALL)
    found = merge(job_for(tmp_path, measure=True), lambda note: None)
    assert found.eval_loss is not None and 4 < found.eval_loss < 8, "near ln(300) = 5.7"
    assert len(found.example_loss_sums) == 2
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    end = byte_tokenizer().convert_tokens_to_ids("<|im_end|>")
    assert end in [generation["eos_token_id"]] or end in generation["eos_token_id"]
    assert "<|im_start|>" in load_tokenizer(str(tmp_path / "merged")).chat_template


def test_adapter_of_a_longer_base_is_refused(tmp_path: Path) -> None:
    save_adapter(
        save_base(tmp_path / "base", tiny_llama()), tmp_path / "adapter", target_modules=ALL
    )
    adapter = tmp_path / "adapter" / "adapter_model.safetensors"
    names = load_file(adapter)
    assert len(names) == 28
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    shorter = {**config, "num_hidden_layers": 1}
    (tmp_path / "base" / "config.json").write_text(json.dumps(shorter))
    base = AutoModelForCausalLM.from_config(LlamaConfig(**shorter), dtype=torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"hold no weight model.layers.1"):
        merge(job_for(tmp_path), lambda note: None)


def test_settings_of_answers_that_transformers_does_not_save_are_kept(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama())
    settings = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(settings))
    save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    merge(job_for(tmp_path), lambda note: None)
    found = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (found["temperature"], found["top_p"]) == (0.6, 0.9)
    assert 2 in found["eos_token_id"]


def test_trained_biases_are_merged_as_by_peft(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_llama(attention_bias=True))
    model = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], bias="lora_only")
    assert_same(merged_here(tmp_path), merged_by_peft(model))


def test_other_base_than_that_of_the_search_is_refused_unmeasured_too(tmp_path: Path) -> None:
    save_adapter(
        save_base(tmp_path / "base", tiny_llama()), tmp_path / "adapter", target_modules=ALL
    )
    job = job_for(tmp_path)
    known = {"base_fingerprints": base_fingerprints(job.load), "measure": False}
    merge(job.model_copy(update=known), lambda note: None)
    shutil.rmtree(tmp_path / "merged")
    file = tmp_path / "base" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # a bit of the last weight
    file.write_bytes(content)
    with pytest.raises(InputError, match="is not the one of the search: base weights"):
        merge(job.model_copy(update=known), lambda note: None)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapter_that_changed_its_base_is_refused(tmp_path: Path, start: str) -> None:
    save_adapter(
        save_base(tmp_path / "base", tiny_llama()), tmp_path / "adapter", target_modules=ALL
    )
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": start}))
    with pytest.raises(InputError, match=f"init_lora_weights {start}"):
        merge(job_for(tmp_path), lambda note: None)


def test_answers_end_where_the_template_ends_a_turn() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "<|im_start|>"
    assert stop_tokens(tokenizer, "2024-07-26") == ["<|im_end|>", "<|im_start|>"]
