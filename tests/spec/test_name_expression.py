"""The expression that names a model's LoRA layers whatever the number of their decoder layer."""

from __future__ import annotations

import re

from vram_search.spec.model_tree import LinearGroup, Numbers, name_expression


def group(pattern: str, *numbers: Numbers) -> LinearGroup:
    return LinearGroup(
        pattern=pattern,
        numbers=numbers,
        in_features=8,
        out_features=8,
        has_bias=False,
        storage="nf4",
        part="text",
        class_name="Linear4bit",
        is_lora_target=True,
    )


def test_modules_of_a_sequential_that_are_no_linear_layers_do_not_match() -> None:
    found = name_expression([group("h.{}.ffn.{}", (0, 0), (0, 2), (1, 0), (1, 2))])
    assert re.fullmatch(found, "h.7.ffn.2")
    assert not re.fullmatch(found, "h.0.ffn.1")


def test_experts_match_by_any_number() -> None:
    experts = [(0, expert) for expert in range(64)]
    found = name_expression([group("h.{}.experts.{}.w1", *experts), group("h.{}.q", (0,), (1,))])
    assert re.fullmatch(found, "h.1.experts.63.w1")
    assert re.fullmatch(found, "h.5.q")
    assert not re.fullmatch(found, "h.5.k")


def test_a_number_at_the_end_is_one_of_a_sequential() -> None:
    found = name_expression([group("visual_projection.{}", (0,)), group("h.{}.q", (0,), (1,))])
    assert re.fullmatch(found, "visual_projection.0") and re.fullmatch(found, "h.5.q")
    assert not re.fullmatch(found, "visual_projection.1")  # a LayerNorm
