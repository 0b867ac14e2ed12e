"""Models that transformers itself cannot train are refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from vram_search.errors import InputError
from vram_search.models.tree import read_shape
from vram_search.resources import shipped
from vram_search.spec.not_trained import check_has_class, check_trainable
from vram_search.spec.shape import load_shape

QWEN = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba", "in NF4: its layers multiply by the weights"),
        ("git", "asks for images"),
        ("pix2struct", "asks for images"),
        ("rwkv", "in NF4: an evaluation replaces weights"),
        ("blt", "cuts a text into patches by its content"),
    ],
)
def test_a_family_that_fails_in_transformers_is_refused_with_the_reason(
    model_type: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        check_trainable(replace(QWEN, model_type=model_type))


def test_an_encoder_with_a_decoder_is_refused() -> None:
    tree = read_shape(shipped("configs", "models", "lfm2-350m")).tree
    assert tree is not None
    config = json.dumps({"is_encoder_decoder": True})
    with pytest.raises(InputError, match="is an encoder with a decoder"):
        check_trainable(replace(QWEN, tree=replace(tree, filled_config=config)))
    check_trainable(replace(QWEN, tree=tree))


def test_other_families_are_not_refused() -> None:
    check_trainable(QWEN)


@pytest.mark.parametrize("slug", ["minicpm4-8b", "chatglm3-6b", "moss-vl-11b"])
def test_a_model_without_a_class_in_transformers_is_counted_and_not_trained(slug: str) -> None:
    shape = read_shape(shipped("configs", "models", slug))
    with pytest.raises(InputError, match=r"transformers has no model_type .* never run") as refused:
        check_has_class(shape)
    assert "choose a model whose class is in transformers" in refused.value.remedy
    check_trainable(shape)  # as `estimate` and `fit` ask


def test_a_model_that_its_class_refuses_is_not_trained() -> None:
    reason = "config.json: transformers cannot build this model: timm is missing"
    with pytest.raises(InputError, match="timm is missing"):
        check_has_class(replace(QWEN, not_modelled=(reason,)))
    check_has_class(replace(QWEN, not_modelled=("opt: LayerNorm",)))
