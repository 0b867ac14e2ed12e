"""What a config.json may get wrong, and what is said of models that are not modelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from vram_search.errors import InputError
from vram_search.models import find_model
from vram_search.resources import shipped
from vram_search.spec.config_fields import ALIASES
from vram_search.spec.families import NOT_DECODERS
from vram_search.spec.shape import load_shape, parse_shape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
REQUIRED = sorted(set(LLAMA) - {"num_key_value_heads"})
SIZES = sorted(set(LLAMA) - {"model_type"})


def changed(**changes: Any) -> dict[str, Any]:
    return LLAMA | changes


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in LLAMA.items() if name not in names}


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("model_type", ["llama", "xyz", "mamba"])
def test_missing_field_is_named(field: str, model_type: str) -> None:
    config = changed(model_type=model_type)
    del config[field]
    with pytest.raises(InputError, match=f"x: {field}: is missing"):
        parse_shape(config, "x")


def test_family_that_is_not_modelled_is_named_with_the_field_it_lacks() -> None:
    config = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 9}
    with pytest.raises(
        InputError, match=r"num_attention_heads: is missing .*'mamba' is not"
    ) as caught:
        parse_shape(config, "x")
    assert "config.json of a causal language model" in caught.value.remedy


def test_code_of_a_repository_is_named_where_its_fields_are_unknown() -> None:
    sizes = {"model_type": "openelm", "model_dim": 1280, "num_transformer_layers": 16}
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_openelm.OpenELMForCausalLM"}}
    with pytest.raises(InputError) as refused:
        parse_shape(sizes | own, "config.json")
    assert "(auto_map), which is not run here" in str(refused.value.remedy)
    with pytest.raises(InputError) as refused:
        parse_shape(sizes, "config.json")
    assert "auto_map" not in str(refused.value.remedy)


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -4, 1.5, "32", True, float("nan"), float("inf"), [32]])
def test_senseless_size_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"x: {field}: is not a whole number from 1 to") as caught:
        parse_shape(changed(**{field: value}), "x")
    assert repr(value) in caught.value.message


@pytest.mark.parametrize("field", [*SIZES, "head_dim", "sliding_window"])
def test_absurd_size_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}: is not a whole number .*is 1000000000000"):
        parse_shape(changed(model_type="mistral", **{field: 10**15}), "x")


def test_absurd_number_of_parameters_is_refused() -> None:
    with pytest.raises(InputError, match=r"3\.2e\+19 parameters: absurd"):
        parse_shape(changed(hidden_size=2**31, vocab_size=2**30), "x")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num_key_value_heads": 3}, r"num_attention_heads \(4\) is not a multiple of .* \(3\)"),
        ({"num_key_value_heads": 8}, r"num_attention_heads \(4\) is not a multiple of .* \(8\)"),
        ({"hidden_size": 33}, r"hidden_size \(33\) is not a multiple of .* \(4\)"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries, but .* is 2"),
        ({"layer_types": [1, 2]}, "layer_types: is not a list of texts"),
        ({"layer_types": "full_attention"}, "layer_types: is not a list of texts"),
        ({"attention_bias": "no"}, "attention_bias: is neither true nor false .is 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: is neither true nor false .is 1"),
        ({"final_logit_softcapping": "30"}, "final_logit_softcapping: is not a number .is '30'"),
        ({"attn_logit_softcapping": -1}, "attn_logit_softcapping: is out of range .is -1"),
        (
            {"final_logit_softcapping": float("nan")},
            "final_logit_softcapping: .*is nan",
        ),
        ({"model_type": 3}, "model_type: is not a text .is 3"),
        ({"is_encoder_decoder": True}, "'llama' is not a causal decoder"),
        ({"text_config": [1]}, r"text_config: is not a mapping .is \[1\]"),
        ({"text_config": {}}, "model_type: is missing"),
        ({"quantization_config": "gptq"}, "quantization_config: is not a mapping .is 'gptq'"),
        ({"quantization_config": {}}, "quant_method: is missing"),
        ({"num_experts": "8"}, "num_experts: is not a whole number"),
        ({"num_experts": 8, "mlp_only_layers": 3}, "mlp_only_layers: is not a list"),
    ],
)
def test_contradiction_or_wrong_type_is_named(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        parse_shape(changed(**changes), "x")


def test_head_dim_of_its_own_needs_no_divisible_hidden_size() -> None:
    assert parse_shape(changed(hidden_size=33, head_dim=8), "x").q_size == 32


def test_family_whose_code_rounds_head_dim_down_is_no_contradiction() -> None:
    config = changed(hidden_size=34)
    with pytest.raises(InputError, match=r"hidden_size \(34\) is not a multiple"):
        parse_shape(config, "x")
    assert parse_shape(config | {"model_type": "glm4_moe"}, "x").head_dim == 8


def test_model_of_experts_alone_needs_no_other_intermediate_size() -> None:
    config = without("intermediate_size") | {"model_type": "qwen3_5_moe_text", "num_experts": 4}
    with pytest.raises(InputError, match="moe_intermediate_size: is missing"):
        parse_shape(config, "x")
    shape = parse_shape(config | {"moe_intermediate_size": 16, "num_experts_per_tok": 2}, "x")
    assert shape.intermediate_size == 2 * 16
    assert shape.expert_parameters == 2 * 4 * (3 * 32 * 16 + 32)


def test_wrapper_without_its_text_config_is_refused() -> None:
    with pytest.raises(InputError, match="'text_config' is missing"):
        parse_shape({"model_type": "llava", "vision_config": {}}, "x")


@pytest.mark.parametrize("model_type", sorted(NOT_DECODERS))
def test_encoder_is_not_a_causal_decoder(model_type: str) -> None:
    assert model_type in CONFIG_MAPPING
    with pytest.raises(InputError, match="is not a causal decoder"):
        parse_shape(changed(model_type=model_type), "x")


@pytest.mark.parametrize("name", ["intermediate_size", "num_hidden_layers", "hidden_size"])
def test_aliases_are_names_in_the_library(name: str) -> None:
    their_names = {"n_inner", "ffn_dim"}  # of GPT-2, OPT and XGLM, outside their maps
    for config in CONFIG_MAPPING.values():
        their_names |= {config.attribute_map.get(name, name)}
    assert set(ALIASES[name]) <= their_names


def test_gpt2_is_read_by_its_own_names_as_a_generic_decoder() -> None:
    gpt2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}
    shape = parse_shape({**gpt2, "n_inner": None}, "x")
    assert (shape.hidden_size, shape.num_hidden_layers, shape.intermediate_size) == (32, 2, 128)
    assert shape.not_modelled == ("gpt2: LayerNorm", "gpt2: MLP without a gate")


def test_unknown_family_is_a_labelled_dense_decoder() -> None:
    shape = parse_shape(changed(model_type="xyz"), "x")
    assert shape.not_modelled == (
        "model_type 'xyz' is unknown: estimated as a decoder with a gated MLP",
    )
    assert shape.parameters == parse_shape(LLAMA, "x").parameters


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "cohere2"}, "attention and MLP side by side"),
        ({"model_type": "starcoder2"}, "MLP without a gate"),
        ({"model_type": "gpt_oss", "num_local_experts": 4}, "attention sinks"),
        ({"model_type": "mixtral", "num_local_experts": 4}, "a mixture of 4 experts"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 4}, "multi-head latent attention"),
        ({"model_type": "jamba"}, "layers that are not attention"),
        ({"model_type": "qwen3_next"}, "layers that are not attention"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layers of linear_attention"),
        ({"model_type": "seed_oss"}, "residual_dropout 0.1"),
        ({"model_type": "phi3", "resid_pdrop": 0.2}, "resid_pdrop 0.2"),
        ({"model_type": "hyperclovax"}, "use_post_norm"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised (gptq)"),
        ({"quantization_config": {"quant_method": "fp8"}}, "already quantised (fp8)"),
    ],
)
def test_what_is_not_modelled_says_why(changes: dict[str, Any], reason: str) -> None:
    assert any(reason in why for why in parse_shape(changed(**changes), "x").not_modelled)


def test_checkpoint_in_nf4_is_what_is_trained_anyway() -> None:
    nf4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    shape = parse_shape(changed(quantization_config=nf4 | {"bnb_4bit_use_double_quant": True}), "x")
    assert replace(shape, checkpoint=None) == parse_shape(LLAMA, "x")
    assert shape.checkpoint is not None and not shape.checkpoint.has_own_size
    single = parse_shape(changed(quantization_config=nf4), "x").checkpoint
    assert single is not None and single.has_own_size  # fp32 scales without double quantisation
    partly = nf4 | {"llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"]}
    assert parse_shape(changed(quantization_config=partly), "x").not_modelled


def test_text_model_of_a_wrapper_is_counted_and_the_rest_named() -> None:
    wrapper = {"model_type": "gemma3", "text_config": LLAMA, "vision_config": {}}
    shape = parse_shape(wrapper, "x")
    assert shape.not_modelled == ("gemma3: the text model alone is counted",)
    assert parse_shape(wrapper | {"tie_word_embeddings": True}, "x").tie_word_embeddings


@pytest.mark.parametrize("key", ["llm_config", "language_config"])
def test_text_model_under_another_name_is_found(key: str) -> None:
    wrapper = {"model_type": "internvl_chat", key: LLAMA, "vision_config": {}}
    assert parse_shape(wrapper, "x").linears == parse_shape(LLAMA, "x").linears


def test_experts_are_no_targets_of_an_adapter() -> None:
    shape = parse_shape(changed(model_type="mixtral", num_local_experts=4), "x")
    assert shape.target_modules("all") == ["q_proj", "k_proj", "v_proj", "o_proj"]
    with pytest.raises(
        ValueError, match=r"has no gate_proj, up_proj; .* its experts are no linear"
    ):
        shape.lora_layers("q_proj,gate_proj,up_proj")


def test_window_of_a_family_without_one_is_ignored() -> None:
    assert parse_shape(changed(sliding_window=16), "x").sliding_window == 0
    assert parse_shape(changed(sliding_window=16, model_type="mistral"), "x").sliding_layers == 2


def test_gemma_3_slides_in_five_layers_of_six() -> None:
    shape = load_shape(shipped("configs", "models", "gemma-3-1b"))
    assert (shape.sliding_window, shape.sliding_layers, shape.num_hidden_layers) == (512, 22, 26)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *LLAMA,
                *("head_dim", "attention_bias", "tie_word_embeddings", "layer_types", "n_embd"),
                *("sliding_window", "sliding_window_pattern", "text_config", "num_experts"),
            ]
        ),
        st.none()
        | st.booleans()
        | st.integers(-2, 300)
        | st.integers()
        | st.floats()
        | st.text(max_size=4)
        | st.lists(st.text(max_size=4), max_size=3)
        | st.dictionaries(st.sampled_from(list(LLAMA)), st.integers(1, 64), max_size=4),
    ),
    st.sampled_from(["llama", "gemma3_text", "exaone4", "smollm3", "mixtral", "xyz", "gpt2"]),
)
def test_any_config_makes_a_shape_or_an_input_error(
    changes: dict[str, Any], model_type: str
) -> None:
    try:
        shape = parse_shape({**LLAMA, "model_type": model_type, **changes}, "x")
    except InputError:
        return
    assert shape.parameters > 0
    assert shape.lora_parameters("all", 1) > 0
    assert 0 <= shape.sliding_layers <= shape.num_hidden_layers


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no mapping"),
        (b'{"a": ' * 100_000, "too deeply nested|not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "too deeply nested"),
        (b'{"hidden_size": 1, "hidden_size": 2}', "'hidden_size' occurs twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (None, "no such file"),
    ],
    ids=["open", "binary", "list", "deep open", "deep", "twice", "digits", "no file"],
)
def test_file_without_a_config_is_an_input_error(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(InputError, match=why):
            load_shape(path)


def test_path_that_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_shape(tmp_path)


def test_size_that_is_not_a_number_in_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(changed(hidden_size=float("nan"))))
    with pytest.raises(InputError, match=r"hidden_size: .*is nan"):
        load_shape(tmp_path)


@pytest.mark.parametrize("target", ["q_proj,gate_proj", r".*\.down_proj"])
def test_layer_in_place_of_which_peft_trains_experts_is_refused(target: str) -> None:
    shape = find_model("deepseek-ai/DeepSeek-V2-Lite").shape()
    assert "gate_proj" not in shape.target_modules("all")
    assert "lora_target all leaves out gate_proj, up_proj, down_proj" in shape.left_out_words
    with pytest.raises(ValueError, match=r"train all experts in place of .* choose all, or names"):
        shape.target_modules(target)
