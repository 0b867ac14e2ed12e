"""Shipped cards and model shapes against their README tables; hub names; parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vram_search.resources import shipped
from vram_search.spec import Card, load_shape
from vram_search.spec.card import card_names, load_card
from vram_search.spec.shape import parse_shape, shape_names
from vram_search.units import GIB, MIB


def table(*parts: str) -> list[list[str]]:
    """Cells of the rows of the only table in a README."""
    lines = shipped(*parts).read_text(encoding="utf-8").splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return rows[2:]


CARDS = {row[0]: row for row in table("configs", "cards", "README.md")}
MODELS = {row[0]: row for row in table("configs", "models", "README.md")}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_every_shipped_card_and_shape_is_in_its_table() -> None:
    assert sorted(CARDS) == card_names()
    assert sorted(MODELS) == shape_names()


@pytest.mark.parametrize("slug", card_names())
def test_shipped_card_is_read_as_yaml_reads_it(slug: str) -> None:
    text = shipped("configs", "cards", f"{slug}.yaml").read_text(encoding="utf-8")
    read = load_card(slug)
    assert read == yaml.safe_load(text)
    assert list(map(type, read.values())) == list(map(type, yaml.safe_load(text).values()))


@pytest.mark.parametrize("slug", card_names())
def test_shipped_card_is_valid_and_as_its_table_says(slug: str) -> None:
    card = Card.model_validate(load_card(slug))
    _, total, reserve, context, capability, bf16, _ = CARDS[slug]
    assert card.name == slug
    assert card.title
    assert card.total_bytes == int(total.replace(",", "")) * MIB
    assert card.reserve_bytes == pytest.approx(float(reserve) * GIB, abs=1)
    assert card.context_bytes == int(context.split()[0]) * MIB
    assert card.assumed is ("assumed" in context)
    assert card.compute_capability == capability
    assert card.has_bf16 is (bf16 == "yes")
    assert card.reserve_bytes + card.context_bytes < 0.25 * card.total_bytes


MODELLED = [
    slug
    for slug in shape_names()
    if slug not in ("lfm2-350m",)  # its sizes are known to its class alone
    and not load_shape(shipped("configs", "models", slug)).not_modelled
]


@pytest.mark.parametrize("slug", MODELLED)
def test_shipped_shape_has_the_published_parameters(slug: str) -> None:
    shape = load_shape(shipped("configs", "models", slug))
    _, _, parameters, head, _ = MODELS[slug]
    assert shape.parameters == int(parameters.replace(",", ""))
    assert shape.tie_word_embeddings is (head == "tied")


def test_parameters_of_a_small_llama_are_counted_by_hand() -> None:
    shape = parse_shape(LLAMA, "by hand")
    attention = 32 * 32 + 2 * 32 * 16 + 32 * 32  # q, k and v, o
    block = attention + 3 * 32 * 64 + 2 * 32  # gate, up and down, and two norms
    assert shape.parameters == 2 * block + 32 + 2 * 100 * 32  # last norm; embedding and head
    assert shape.bias_parameters == 0
    assert shape.lora_parameters("qv", 8) == 2 * 8 * ((32 + 32) + (32 + 16))
    assert shape.target_modules("all") == [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ]


def test_defaults_of_a_config_follow_its_family() -> None:
    qwen = parse_shape({**LLAMA, "model_type": "qwen2"}, "")
    assert [linear.name for linear in qwen.linears if linear.bias] == ["q_proj", "k_proj", "v_proj"]
    assert not parse_shape({**LLAMA, "model_type": "qwen2"}, "").tie_word_embeddings
    assert parse_shape({**LLAMA, "model_type": "gemma2"}, "").tie_word_embeddings
    without = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert parse_shape(without, "").num_key_value_heads == 4
    assert parse_shape({**LLAMA, "head_dim": 16}, "").q_size == 64
    assert parse_shape({"text_config": {**LLAMA}}, "") == parse_shape(LLAMA, "")


def test_target_that_the_model_lacks_names_what_it_has() -> None:
    phi = load_shape(shipped("configs", "models", "phi-4"))
    with pytest.raises(ValueError, match=r"has no up_proj, W_pack; it has qkv_proj, o_proj"):
        phi.lora_layers("up_proj,qkv_proj,W_pack")
    assert phi.target_modules("qkv_proj,down_proj") == ["qkv_proj", "down_proj"]


def test_estimate_counts_a_fused_layer_of_a_publishers_code_as_those_apart() -> None:
    shape = parse_shape({**LLAMA, "model_type": "baichuan"}, "")
    assert shape.estimated_modules("W_pack") == ("q_proj", "k_proj", "v_proj")
    with pytest.raises(ValueError, match="has no W_pack"):
        shape.lora_layers("W_pack")


def test_most_shipped_shapes_are_modelled() -> None:
    assert len(MODELLED) >= 100


def test_shape_is_read_from_a_folder_or_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert load_shape(tmp_path) == load_shape(tmp_path / "config.json") == parse_shape(LLAMA, "")
