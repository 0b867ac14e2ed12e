"""Compares the loaded base model with what was predicted: which parameters are in NF4."""

from __future__ import annotations

from typing import Any

import torch

from vram_search.model_code.build import auto_class
from vram_search.model_code.read import plain, read_tree
from vram_search.spec.base_storage import BaseStorage, storage_of
from vram_search.spec.model_tree import ModelTree
from vram_search.train.device import compute_dtype


def differing_tree(base: Any, predicted: BaseStorage | None) -> dict[str, Any] | None:
    """Returns the module tree of a loaded base model as JSON, if it is not as predicted.

    Args:
        predicted: None accepts every form.
    """
    if predicted is None:
        return None
    tree = loaded_tree(base, compute_dtype())
    return tree.to_json() if predicted.differs(storage_of(tree)) else None


def loaded_tree(base: Any, dtype: torch.dtype) -> ModelTree:
    """Returns the module tree of a loaded base model.

    Args:
        dtype: of the weights that are neither quantised nor kept in fp32. They count as 16 bits,
            also on a CPU that computes in fp32.
    """
    values = plain(base.config.to_dict())
    return read_tree(base, auto_class(base.config).__name__, values, dtype)
