"""Models that transformers itself cannot train are refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vram_search.errors import InputError
from vram_search.resources import shipped
from vram_search.spec.not_trained import check_trainable
from vram_search.spec.shape import load_shape

QWEN = load_shape(shipped("configs", "models", "qwen2.5-0.5b"))


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba", "in NF4: its layers multiply by the weights"),
        ("git", "asks for images"),
        ("pix2struct", "asks for images"),
    ],
)
def test_a_family_that_fails_in_transformers_is_refused_with_the_reason(
    model_type: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        check_trainable(replace(QWEN, model_type=model_type))


def test_other_families_are_not_refused() -> None:
    check_trainable(QWEN)
