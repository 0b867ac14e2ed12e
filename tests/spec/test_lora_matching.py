"""Which layers a LoRA target selects, and the names by which peft finds exactly these."""

from __future__ import annotations

import re
import warnings

import pytest

from vram_search.spec.lora_matching import select_layers, with_layers_apart
from vram_search.spec.lora_targets import compiled_expression, parse_lora_target
from vram_search.spec.model_tree import LinearGroup, Part

HIDDEN = 32


def group(
    pattern: str, layers: int | tuple[int, ...] = 2, out: int = HIDDEN, part: Part = "text"
) -> LinearGroup:
    numbers = tuple(range(layers)) if isinstance(layers, int) else layers
    return LinearGroup(
        pattern=pattern,
        numbers=tuple((number,) for number in numbers),
        in_features=HIDDEN,
        out_features=out,
        has_bias=False,
        storage="nf4",
        part=part,
        class_name="Linear4bit",
        is_lora_target=part == "text",
    )


LLAMA = tuple(
    group(f"model.layers.{{}}.{block}.{name}", out=64 if name in ("gate_proj", "up_proj") else 32)
    for block, names in (
        ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("mlp", ("gate_proj", "up_proj", "down_proj")),
    )
    for name in names
)
WRAPPER = (
    group("model.vision_tower.layers.{}.self_attn.q_proj", part="vision"),
    group("model.vision_tower.layers.{}.mlp.fc1", part="vision"),
    *(
        group(one.pattern.replace("model.", "model.language_model."), out=one.out_features)
        for one in LLAMA
    ),
)
HYBRID = (
    group("model.layers.{}.conv.in_proj", (0,), 96),
    group("model.layers.{}.conv.out_proj", (0,)),
    *(group(f"model.layers.{{}}.self_attn.{n}", (1,)) for n in ("q_proj", "k_proj", "v_proj")),
    group("model.layers.{}.self_attn.out_proj", (1,)),
    group("model.layers.{}.feed_forward.w1", out=64),
    group("model.layers.{}.feed_forward.w2"),
)
FUSED = (
    group("transformer.h.{}.self_attention.query_key_value", out=96),
    group("transformer.h.{}.self_attention.dense"),
    group("transformer.h.{}.mlp.dense_h_to_4h", out=128),
    group("transformer.h.{}.mlp.dense_4h_to_h"),
)
BAICHUAN = (
    group("model.layers.{}.self_attn.W_pack", out=96),
    group("model.layers.{}.self_attn.o_proj"),
)


def names(target: str, linears: tuple[LinearGroup, ...], *others: str) -> tuple[str, ...]:
    return select_layers(target, linears, HIDDEN, others).names


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("qv", ("q_proj", "v_proj")),
        ("qkvo_gu", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")),
        ("up_proj,q_proj", ("up_proj", "q_proj")),
        ("self_attn.q_proj", ("q_proj",)),
        (r".*\.self_attn\.(q|v)_proj", ("q_proj", "v_proj")),
    ],
)
def test_names_of_a_model_like_llama_stay_short(target: str, expected: tuple[str, ...]) -> None:
    assert names(target, LLAMA) == expected


@pytest.mark.parametrize(
    ("target", "counted"),
    [
        ("W_pack", "q_proj,k_proj,v_proj"),
        ("self_attn.W_pack,o_proj,q_proj", "q_proj,k_proj,v_proj,o_proj"),
        ("W_unknown", "W_unknown"),
        (r".*\.W_pack", r".*\.W_pack"),
        ("all", "all"),
    ],
)
def test_fused_layer_is_counted_as_those_that_a_model_has_apart(target: str, counted: str) -> None:
    assert with_layers_apart(target, {group.kind for group in LLAMA}) == counted
    assert with_layers_apart("W_pack", {group.kind for group in BAICHUAN}) == "W_pack"


@pytest.mark.parametrize(
    ("linears", "target", "expected"),
    [
        (HYBRID, "qv", ("q_proj", "v_proj")),
        (HYBRID, "qkvo", ("q_proj", "k_proj", "v_proj", "self_attn.out_proj")),
        (HYBRID, "qkvo_gu", ("q_proj", "k_proj", "v_proj", "self_attn.out_proj", "w1")),
        (FUSED, "qv", ("query_key_value",)),
        (FUSED, "qkvo", ("query_key_value", "dense")),
        (FUSED, "qkvo_gu", ("query_key_value", "dense", "dense_h_to_4h")),
        (BAICHUAN, "W_pack", ("W_pack",)),
        (BAICHUAN, "qv", ("W_pack",)),
    ],
)
def test_sets_find_the_layers_of_other_architectures(
    linears: tuple[LinearGroup, ...], target: str, expected: tuple[str, ...]
) -> None:
    assert names(target, linears) == expected


@pytest.mark.parametrize("target", ["all", "q_proj", "qkvo", r".*q_proj"])
def test_vision_tower_never_gets_an_adapter(target: str) -> None:
    layers = select_layers(target, WRAPPER, HIDDEN)
    assert all(one.startswith("model.language_model") for g in layers.groups for one in g.names())
    assert not any(
        tower == name or tower.endswith(f".{name}")
        for name in layers.names
        for one in WRAPPER[:2]
        for tower in one.names()
    )


def test_layer_numbers_select_some_layers() -> None:
    layers = select_layers(r"model\.layers\.1\..*_proj", LLAMA, HIDDEN)
    assert sum(one.count for one in layers.groups) == 7
    assert layers.names[0] == "model.layers.1.self_attn.q_proj"
    again = select_layers(",".join(layers.names), LLAMA, HIDDEN)
    assert again.groups == layers.groups


def test_other_module_of_the_same_name_makes_the_name_longer() -> None:
    other = "model.layers.{}.attn.in_proj"
    assert names("in_proj", HYBRID, other) == ("conv.in_proj",)


def test_trainable_parameters_count_the_layers_that_have_one() -> None:
    assert select_layers("qv", HYBRID, HIDDEN).parameters(8) == 2 * 8 * (32 + 32)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("wo", "has no wo; it has q_proj, k_proj"),
        ("q_proj,wo", "has no wo"),
        (r".*nothing", "matches no linear layer .*; it has q_proj"),
        ("(", "is not a regular expression"),
    ],
)
def test_target_without_layers_names_the_real_ones(target: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        select_layers(target, LLAMA, HIDDEN)


@pytest.mark.parametrize(
    "target",
    ["self_attn.q_proj", r"model\.layers\.\d+\.mlp\..*", "W_pack", "qv", "layers.3.mlp.w1"],
)
def test_targets_that_peft_takes_are_read(target: str) -> None:
    assert parse_lora_target(target) == target


@pytest.mark.parametrize("target", ["q proj", "(", "q_proj,q_proj", "qv,q_proj", "a..b", ""])
def test_text_that_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"LoRA|regular|set's"):
        parse_lora_target(target)


@pytest.mark.parametrize("text", [".*[[q]_proj", ".*[v||q]_proj", ".*[v&&q]_proj"])
def test_a_set_that_python_warns_of_is_matched_without_a_warning(text: str) -> None:
    re.purge()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_lora_target(text) == text
        re.purge()
        assert compiled_expression(text).pattern == text


@pytest.mark.parametrize("text", ["(" * 5000 + ")" * 5000, "q{99999999999}", "(q"])
def test_text_that_re_cannot_compile_is_no_expression(text: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression"):
        parse_lora_target(text)
