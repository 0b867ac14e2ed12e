"""One rule says which names studies and base models may have."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import vram_search
from vram_search.spec.model import ModelSpec
from vram_search.spec.name_rule import NAME_PATTERN, is_valid_name

PACKAGE = Path(vram_search.__file__).parent


@pytest.mark.parametrize("name", ["a", "7b", "Qwen2.5-3B_x", "a" * 64])
def test_names_that_are_valid(name: str) -> None:
    assert is_valid_name(name)
    assert ModelSpec(model_name_or_path="org/x", name=name).name == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "a\n", "é", "a" * 65])
def test_names_that_are_not(name: str) -> None:
    assert not is_valid_name(name)
    with pytest.raises(ValidationError, match=r"\nname\n.*should match pattern"):
        ModelSpec(model_name_or_path="org/x", name=name)


def test_the_rule_is_written_once() -> None:
    length = NAME_PATTERN[-7:-1]
    assert length == "{0,63}"
    files = (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.j2"))
    holders = [file.name for file in files if length in file.read_text(encoding="utf-8")]
    assert holders == ["name_rule.py"]
