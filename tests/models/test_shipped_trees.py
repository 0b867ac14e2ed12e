"""A light installation answers for every shipped shape: module trees of those without a formula."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.shipped_trees import without_formula
from vram_search.errors import InputError
from vram_search.extras import INSTALL
from vram_search.models import tree as tree_module
from vram_search.models.shipped_trees import configuration_key, shipped_tree
from vram_search.models.tree import read_shape
from vram_search.resources import shipped
from vram_search.spec.config_fields import load_config
from vram_search.spec.model_tree import FORMAT

STARCODER = shipped("configs", "models", "starcoder2-3b", "config.json")

NEEDS_PIL = ("gemma-3n-e2b", "gemma-3n-e4b")
"""transformers builds their vision tower with Pillow and timm, which no extra installs."""


@pytest.fixture(autouse=True)
def no_class_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree_module._tree.cache_clear()
    monkeypatch.setattr(tree_module, "_read_from_class", lambda file: pytest.fail("read"))


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(tree_module, "installed_version", lambda package: version)


def test_every_shape_without_a_formula_is_read_without_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "")
    slugs = [slug for slug in without_formula() if slug not in NEEDS_PIL]
    assert len(slugs) > 100
    for slug in slugs:
        folder = shipped("configs", "models", slug)
        stored = shipped_tree(load_config(folder / "config.json"), str(folder / "config.json"))
        assert stored is not None and stored["format"] == FORMAT, slug
        try:
            shape = read_shape(folder)
        except InputError as error:
            assert error.message == stored["fault"]
        else:
            assert shape.tree is not None or "fault" in stored, slug


def test_tree_of_the_installed_version_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = shipped_tree(load_config(STARCODER), "")
    assert stored is not None
    install(monkeypatch, stored["transformers_version"])
    assert read_shape(STARCODER).tree is not None


def test_tree_of_another_version_is_read_from_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "999.0")
    with pytest.raises(pytest.fail.Exception, match="read"):
        read_shape(STARCODER)


def test_fine_tuned_copy_finds_the_tree_and_another_size_does_not() -> None:
    values = load_config(STARCODER)
    copy = {**values, "eos_token_id": 7, "use_cache": False, "torch_dtype": "float16"}
    assert configuration_key(copy) == configuration_key(values)
    assert shipped_tree({**values, "hidden_size": 64}, "") is None


def test_unknown_model_without_transformers_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "")
    text = STARCODER.read_text(encoding="utf-8").replace("3072", "1536")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="needs the package transformers") as refused:
        read_shape(tmp_path)
    assert refused.value.remedy == INSTALL
