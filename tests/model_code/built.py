"""Shapes with the module trees of configurations, built in the test's own process."""

from __future__ import annotations

from typing import Any

from vram_search.model_code.build import auto_class, build, load_config
from vram_search.model_code.read import read_tree
from vram_search.models.tree import with_tree
from vram_search.spec.filled_shape import parse_filled
from vram_search.spec.shape import ModelShape


def shape_of(values: dict[str, Any]) -> ModelShape:
    """Returns the shape that the values of a config.json describe."""
    config = load_config(values, "config.json")
    tree = read_tree(build(config), auto_class(config).__name__, values)
    return with_tree(parse_filled(tree, "config.json"), tree)
