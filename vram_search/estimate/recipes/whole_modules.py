"""Embeddings and heads that a training file trains whole, beside the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.spec.shape import ModelShape
from vram_search.typed_fields import shown

EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
HEADS = ("lm_head", "embed_out", "output")
"""Input embeddings and output heads by their names in transformers: a row for each token."""


@dataclass(frozen=True)
class WholeModules:
    """Parameters of embeddings and heads that are trained whole."""

    embedding_parameters: int
    head_parameters: int

    def as_fields(self, element_bytes: int) -> dict[str, Any]:
        """Fields of a Workload; none if no such module is trained.

        Args:
            element_bytes: of the trained copies.
        """
        if not self.embedding_parameters + self.head_parameters:
            return {}
        return {
            "whole_parameters": self.embedding_parameters + self.head_parameters,
            "whole_head_parameters": self.head_parameters,
            "whole_element_bytes": element_bytes,
        }


def whole_modules(
    keys: RecipeKeys, key: str, shape: ModelShape, needs_more: list[str]
) -> WholeModules:
    """The embeddings and heads that a key names (peft's `modules_to_save`).

    Any other module has a size that is not known here: a reason is added to `needs_more`.

    Raises:
        InputError: the key holds no names.
    """
    named = keys.values.get(key) or []
    names = named.split(",") if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise keys.refused(key, "is not a list of module names", "write [embed_tokens, lm_head]")
    last = list(dict.fromkeys(name.strip().rpartition(".")[2] for name in names))
    others = [name for name in last if name not in (*EMBEDDINGS, *HEADS)]
    if others:
        needs_more.append(
            f"{key}: {shown(others)} is not modelled: these modules are trained whole, with a "
            "copy, gradients and states"
        )
    table = shape.vocab_size * shape.hidden_size
    return WholeModules(
        embedding_parameters=table * any(name in EMBEDDINGS for name in last),
        head_parameters=table * any(name in HEADS for name in last),
    )
