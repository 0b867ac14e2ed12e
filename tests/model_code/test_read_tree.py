"""The module tree that is read from transformers' own classes."""

from __future__ import annotations

import json
from functools import lru_cache

import pytest
from transformers import CONFIG_MAPPING, Qwen2ForCausalLM

from tests.model_code.configs import GEMMA_3, LFM_2, SIZES, TINY
from vram_search.errors import InputError
from vram_search.model_code.build import auto_class, build, load_config
from vram_search.model_code.read import read_tree
from vram_search.spec.expert_targets import NAMES, PATTERNS, left_to_experts
from vram_search.spec.model_tree import ModelTree, parse_tree


@lru_cache
def tree_of(name: str) -> ModelTree:
    return read(TINY[name])


def read(values: dict[str, object]) -> ModelTree:
    config = load_config(values, "config.json")
    return read_tree(build(config), auto_class(config).__name__, values)


@pytest.mark.parametrize("name", TINY)
def test_tree_counts_the_parameters_of_the_class(name: str) -> None:
    config = load_config(TINY[name], "config.json")
    with_ties = build(config)
    assert tree_of(name).parameters == sum(p.numel() for p in with_ties.parameters())


@pytest.mark.parametrize("name", TINY)
def test_tree_survives_its_json(name: str) -> None:
    assert parse_tree(json.loads(json.dumps(tree_of(name).to_json()))) == tree_of(name)


def test_wrapper_is_loaded_whole_and_only_its_text_part_gets_adapters() -> None:
    tree = tree_of("gemma3")
    assert tree.class_name == "Gemma3ForConditionalGeneration"
    assert tree.auto_class == "AutoModelForImageTextToText"
    assert tree.has_other_parts
    assert {group.part for group in tree.linears} == {"text", "vision"}  # the head is tied
    names = [name for group in tree.lora_targets for name in group.names()]
    assert len(names) == 7 * 4
    assert all(name.startswith("model.language_model.layers.") for name in names)


def test_layers_that_differ_are_groups_of_their_own() -> None:
    by_pattern = {group.pattern: group for group in tree_of("lfm2").linears}
    assert by_pattern["model.layers.{}.conv.in_proj"].numbers == ((0,), (2,))
    assert by_pattern["model.layers.{}.self_attn.q_proj"].numbers == ((1,), (3,))
    assert by_pattern["model.layers.{}.feed_forward.w1"].count == 4
    assert tree_of("lfm2").layer_types == ("conv", "full_attention", "conv", "full_attention")


@pytest.mark.parametrize("name", ["olmoe", "mixtral", "gpt_oss"])
def test_experts_stay_in_16_bits(name: str) -> None:
    experts = [group for group in tree_of(name).tensors if group.is_experts]
    assert {group.pattern.rpartition(".")[2] for group in experts} >= {"down_proj", "gate_up_proj"}
    assert all(group.element_bytes == 2 for group in experts)
    assert not any("experts" in group.pattern for group in tree_of(name).linears)


def test_convolution_is_no_expert() -> None:
    assert tree_of("lfm2").expert_parameters == 0


def test_tied_head_is_counted_once() -> None:
    tied, untied = (read({**LFM_2, "tie_word_embeddings": tied}) for tied in (True, False))
    assert tied.tied and not untied.tied
    assert untied.parameters - tied.parameters == 300 * 32
    assert [group.part for group in untied.linears].count("head") == 1


def test_fields_that_a_file_leaves_out_take_the_class_default() -> None:
    given = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    tree = read({**GEMMA_3, "text_config": {"model_type": "gemma3_text", **given}})
    filled = json.loads(tree.filled_config)["text_config"]
    assert filled["vocab_size"] == 262_208
    assert filled["num_attention_heads"] == 8
    assert next(g for g in tree.linears if g.kind == "q_proj" and g.part == "text").out_features


def test_unknown_model_type_is_refused_with_what_would_help() -> None:
    with pytest.raises(InputError, match="transformers has no model_type 'chatglm9'") as refused:
        load_config({**SIZES, "model_type": "chatglm9"}, "config.json")
    assert "pip install -U transformers" in refused.value.remedy


def test_model_without_a_language_model_is_refused() -> None:
    config = load_config({"model_type": "vit"}, "config.json")
    with pytest.raises(InputError, match="no language model for model_type 'vit'"):
        auto_class(config)


def test_class_of_several_models_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Qwen 2.5 Omni's, which holds a thinker and a talker."""

    def refuse(_: object) -> None:
        raise NotImplementedError

    config = load_config({**SIZES, "model_type": "qwen2"}, "config.json")
    monkeypatch.setattr(Qwen2ForCausalLM, "get_input_embeddings", refuse)
    with pytest.raises(InputError, match="class of qwen2 has no embedding of text") as refused:
        build(config)
    assert "thinker" in refused.value.remedy


def test_layers_that_peft_refuses_get_no_adapter() -> None:
    tree = read(
        {
            **SIZES,
            "model_type": "falcon_h1",
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_ssm": 64,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
        }
    )
    kinds = {group.kind for group in tree.linears if group.is_lora_target}
    assert {"in_proj", "q_proj", "down_proj"} <= kinds
    assert "out_proj" in {group.kind for group in tree.linears}
    assert "out_proj" not in kinds


def test_layers_in_place_of_which_peft_trains_experts_get_no_adapter() -> None:
    tree = read(
        {
            **SIZES,
            "model_type": "ernie4_5_moe",
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 16,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        }
    )
    assert {g.kind for g in tree.lora_targets} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {"gate_proj", "up_proj", "down_proj"} <= {g.kind for g in left_to_experts(tree.linears)}


def test_every_family_that_peft_rewrites_is_in_the_table() -> None:
    conversion = pytest.importorskip("peft.utils.transformers_weight_conversion")
    names = {pattern: set(one) for pattern, one in conversion._MOE_TARGET_MODULE_MAPPING.items()}
    assert names == {pattern: set(one) for pattern, one in NAMES.items()}
    rewritten = {
        name: pattern
        for name, pattern in conversion._MODEL_TO_CONVERSION_PATTERN.items()
        if pattern in names and name in CONFIG_MAPPING
    }
    assert rewritten.items() <= PATTERNS.items()
