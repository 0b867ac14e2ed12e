"""Shipped module trees are those that the classes of transformers build."""

from __future__ import annotations

import pytest

from bench.shipped_trees import differs


@pytest.mark.parametrize("slug", ["gpt2", "lfm2-350m", "olmoe-1b-7b", "smolvlm2-256m"])
def test_shipped_tree_is_the_one_of_the_class(slug: str) -> None:
    assert not differs(slug)
