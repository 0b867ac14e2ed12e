"""Finds a model by the name that people use: a folder, a shipped shape, a hub name."""

from vram_search.models.find import (
    FoundModel,
    find_by_path,
    find_model,
    find_on_this_machine,
    find_shape,
)
from vram_search.models.tree import model_tree, read_shape

__all__ = [
    "FoundModel",
    "find_by_path",
    "find_model",
    "find_on_this_machine",
    "find_shape",
    "model_tree",
    "read_shape",
]
