"""Shipped module trees are those that the classes of transformers build."""

from __future__ import annotations

import pytest

from bench.shipped_trees import differs, values_of
from vram_search.installed import installed_version
from vram_search.models.shipped_trees import PLACE, shipped_tree


@pytest.mark.parametrize("slug", ["gpt2", "lfm2-350m", "olmoe-1b-7b", "smolvlm2-256m"])
def test_shipped_tree_is_the_one_of_the_class(slug: str) -> None:
    stored = shipped_tree(values_of(slug), PLACE)
    assert stored is not None
    if stored["transformers_version"] != installed_version("transformers"):
        pytest.skip(f"the shipped trees are those of transformers {stored['transformers_version']}")
    assert not differs(slug)
