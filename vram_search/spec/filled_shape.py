"""The shape of a model that only its own class can read: sizes from the class's full configuration.

The module tree has the weights; what is read here describes an average layer.
"""

from __future__ import annotations

import json
from typing import Any

from vram_search.errors import InputError
from vram_search.spec.model_tree import ModelTree
from vram_search.spec.shape import Linear, ModelShape, parse_shape

NO_LAYERS = "its layers are not attention and a gated MLP"


def parse_filled(tree: ModelTree, source: str) -> ModelShape:
    """Returns the shape of a tree's full configuration.

    Raises:
        InputError: the class's configuration has no sizes.
    """
    config = json.loads(tree.filled_config)
    text = config.get("text_config") or config
    try:
        return parse_shape(config, source)
    except InputError:
        return _average_shape(tree, text)


def _average_shape(tree: ModelTree, text: dict[str, Any]) -> ModelShape:
    """Returns a shape of what the tree itself tells: the embedding's sizes and the layers."""
    embedding = max(
        (group for group in tree.tensors if group.part == "text" and len(group.shape) == 2),
        key=lambda group: group.elements,
    )
    vocabulary, hidden = embedding.shape
    heads = text.get("num_attention_heads") or 1
    heads = heads if isinstance(heads, int) else max(heads)
    widest = max((group.out_features for group in tree.lora_targets), default=hidden)
    return ModelShape(
        model_type=tree.text_model_type,
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=widest,
        num_hidden_layers=tree.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=max(1, hidden // heads),
        tie_word_embeddings=tree.tied,
        linears=(
            *(Linear(name, hidden, hidden) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
            *(Linear(name, hidden, widest) for name in ("gate_proj", "up_proj")),
            Linear("down_proj", widest, hidden),
        ),
        norm_parameters=0,
        not_modelled=(f"{tree.text_model_type}: {NO_LAYERS}",),
    )
