"""Model shapes against transformers' own classes, built on PyTorch's meta device."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from vram_search.spec.families import GENERIC, MODELLED
from vram_search.spec.shape import Linear, ModelShape, parse_shape

SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 13,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GIVEN = {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
BIASES = {"attention_bias", "mlp_bias", "qkv_bias", "bias", "attention_out_bias"}
KIN = {
    "cwm": "llama",
    "hunyuan_v1_dense": "qwen3",
    "hyperclovax": "granite",
    "internlm3": "llama",
    "iquestcoder": "llama",
    "ministral": "llama",
    "mistral": "llama",
    "olmo3": "olmo2",
    "qwen2": "llama",
    "seed_oss": "llama",
    "smollm3": "llama",
}
"""Families that keep for backward, layer by layer, what another family keeps."""


def real(config: dict[str, Any]) -> PreTrainedConfig:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return CONFIG_MAPPING[config["model_type"]](**fields)


def built(config: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(real(config))
    return model


def linears_of(layer: nn.Module) -> dict[str, Linear]:
    return {
        (name := path.rsplit(".", 1)[-1]): Linear(
            name, module.in_features, module.out_features, module.bias is not None
        )
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }


def assert_same_parameters(shape: ModelShape, model: nn.Module) -> None:
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    assert len(layers) == shape.num_hidden_layers
    expected = {linear.name: linear for linear in shape.linears}
    for layer in layers:
        assert linears_of(layer) == expected
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert shape.norm_parameters == norms
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.tie_word_embeddings is bool(model.config.tie_word_embeddings)


def biased(model_type: str) -> dict[str, Any]:
    family = MODELLED[model_type]
    named = {family.qkv_bias, family.o_bias, family.mlp_bias}
    if model_type == "internlm3":  # refuses one bias without the other
        return {"qkv_bias": True, "bias": True}
    return {name: True for name in named if isinstance(name, str)}


NEWER = {"internlm3", "iquestcoder"}
"""Families that transformers has only since a later version than the lowest that we allow."""


@pytest.fixture(autouse=True)
def transformers_has_the_family(request: pytest.FixtureRequest) -> None:
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    name = parameters.get("model_type")
    if name in NEWER and name not in CONFIG_MAPPING:
        pytest.skip(f"this transformers does not have {name} yet")


@pytest.mark.parametrize("model_type", MODELLED)
@pytest.mark.parametrize("variant", ["as given", "by default", "biased", "tied", "untied"])
def test_modelled_family_has_the_parameters_of_its_class(model_type: str, variant: str) -> None:
    changes = {
        "as given": GIVEN,
        "by default": {},
        "biased": GIVEN | biased(model_type),
        "tied": GIVEN | {"tie_word_embeddings": True},
        "untied": GIVEN | {"tie_word_embeddings": False},
    }[variant]
    if variant == "by default" and "num_key_value_heads" in MODELLED[model_type].defaults:
        changes = {"num_attention_heads": 32, "hidden_size": 64}
    if variant == "by default" and model_type in {"ministral", "hunyuan_v1_dense"}:
        changes = changes | {"head_dim": 12}  # their code fails without
    config = {**SIZES, **changes, "model_type": model_type}
    if model_type == "hyperclovax":
        config["use_post_norm"] = False
    assert_same_parameters(parse_shape(config, ""), built(config))


@pytest.mark.parametrize("model_type", MODELLED)
def test_bias_switches_of_other_families_are_ignored(model_type: str) -> None:
    family = MODELLED[model_type]
    used = {family.qkv_bias, family.o_bias, family.mlp_bias, "attention_bias", "mlp_bias"}
    if model_type == "internlm3":
        used |= {"qkv_bias", "bias"}
    config = {**SIZES, **GIVEN, "model_type": model_type, **dict.fromkeys(BIASES - used, True)}
    if model_type == "hyperclovax":
        config["use_post_norm"] = False
    assert_same_parameters(parse_shape(config, ""), built(config))


WINDOWS: list[dict[str, Any]] = [
    {},
    {"sliding_window": 24},
    {"sliding_window": None},
    {"sliding_window": 24, "use_sliding_window": True},
    {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 3},
    {"sliding_window": 24, "use_sliding_window": True, "max_window_layers": 70},
    {"sliding_window": 24, "sliding_window_pattern": 3},
    {"sliding_window": 24, "layer_types": ["full_attention"] * 13},
    {"sliding_window": 24, "layer_types": ["full_attention"] * 5 + ["sliding_attention"] * 8},
]


@pytest.mark.parametrize("model_type", MODELLED)
@pytest.mark.parametrize("changes", WINDOWS, ids=str)
def test_window_holds_for_as_many_layers_as_in_the_class(
    model_type: str, changes: dict[str, Any]
) -> None:
    config = {**SIZES, **GIVEN, **changes, "model_type": model_type}
    shape = parse_shape(config, "")
    try:
        theirs = real(config)
    except (StrictDataclassError, ZeroDivisionError) as refused:
        pytest.skip(f"transformers refuses it: {type(refused).__name__}")
    window = getattr(theirs, "sliding_window", None) if MODELLED[model_type].slides else None
    if not window:
        sliding = 0
    elif MODELLED[model_type].reads_layer_types:
        sliding = theirs.layer_types.count("sliding_attention")
    else:
        sliding = 13
    assert shape.sliding_layers == sliding
    assert shape.sliding_window == (window if sliding else 0)


@cache
def bytes_kept(model_type: str) -> int:
    """What two more layers keep for backward, in a forward pass of 24 tokens in bf16."""
    return _kept(model_type, 4) - _kept(model_type, 2)


def _kept(model_type: str, layers: int) -> int:
    config = {
        **SIZES,
        **GIVEN,
        "model_type": model_type,
        "num_hidden_layers": layers,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "residual_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_post_norm": False,
        "no_rope_layer_interval": 100,
        "layer_types": ["full_attention"] * layers,
    }
    model = AutoModelForCausalLM.from_config(real(config), dtype=torch.bfloat16)
    weights = {p.untyped_storage().data_ptr() for p in model.requires_grad_(False).parameters()}
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _module, _args, out: out.requires_grad_(True))
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(input_ids=torch.zeros(1, 24, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("model_type", KIN)
def test_family_keeps_for_backward_what_its_kin_keeps(model_type: str) -> None:
    assert bytes_kept(model_type) == bytes_kept(KIN[model_type])


def test_norm_of_each_head_keeps_a_scale_of_each_head() -> None:
    scales = 2 * 24 * 4 * (4 + 2 - 2)  # layers, tokens, fp32; heads of q and k, not one of each
    assert bytes_kept("exaone4") == bytes_kept("olmo2") + scales


def test_families_of_other_operations_keep_something_else() -> None:
    assert len({bytes_kept(name) for name in ("llama", "qwen3", "ernie4_5", "olmo2")}) == 4


MOE: list[dict[str, Any]] = [
    {"model_type": "mixtral", "num_local_experts": 4},
    {"model_type": "granitemoe", "num_local_experts": 4},
    {"model_type": "olmoe", "num_experts": 4, "head_dim": 12},
    {"model_type": "qwen3_moe", "num_experts": 4, **EXPERTS},
    {"model_type": "qwen3_moe", "num_experts": 4, **EXPERTS, "decoder_sparse_step": 2},
    {"model_type": "qwen3_moe", "num_experts": 4, **EXPERTS, "mlp_only_layers": [0, 3]},
    {
        "model_type": "qwen2_moe",
        "num_experts": 4,
        **EXPERTS,
        "shared_expert_intermediate_size": 56,
    },
    {
        "model_type": "dots1",
        "n_routed_experts": 4,
        **EXPERTS,
        "n_shared_experts": 2,
        "first_k_dense_replace": 3,
    },
    {
        "model_type": "glm4_moe",
        "n_routed_experts": 4,
        **EXPERTS,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
]


@pytest.mark.parametrize("changes", MOE, ids=lambda changes: changes["model_type"])
def test_mixture_of_experts_is_counted_in_full_and_named_as_not_modelled(
    changes: dict[str, Any],
) -> None:
    config = {**SIZES, **GIVEN, **changes}
    shape, model = parse_shape(config, ""), built(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    attention = model.get_submodule("model.layers.0.self_attn")
    assert {linear.name: linear for linear in shape.linears} == linears_of(attention)
    assert any("a mixture of 4 experts" in reason for reason in shape.not_modelled)


@pytest.mark.parametrize("model_type", [*MODELLED, *GENERIC])
def test_family_in_the_tables_exists(model_type: str) -> None:
    assert model_type in CONFIG_MAPPING
