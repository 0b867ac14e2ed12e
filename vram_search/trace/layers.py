"""Keeps a few decoder layers of a model: the first, the last, and one of each kind between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from vram_search.model_code.read import layer_counts

SIMPLE = (bool, int, float, str, tuple, type(None))
NOT_A_KIND = ("layer_idx", "layer_id", "index")
"""Attributes that number a layer."""


@dataclass(frozen=True)
class KeptLayers:
    """Layers that stand for all."""

    places: tuple[int, ...]
    """Their places in the whole model."""
    stands_for: tuple[int, ...]
    """For each layer of the whole model the position among the kept ones."""
    chunks: tuple[int, ...]
    """For each kept layer the tokens to a multiple of which it pads a row; 1 if it does not."""


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of a model's decoder layers.

    Raises:
        ValueError: the model has none of as many modules as its configuration names layers.
    """
    decoder = model.get_decoder() or model
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    for count in layer_counts(model.config.get_text_config(decoder=True)):
        found = next((one for one in lists if len(one) == count), None)
        if found is not None:
            return found
    raise ValueError(f"{type(model).__name__} has no list of its decoder layers")


def decoder_as_one_layer(model: Any) -> nn.ModuleList:
    """A list of one layer, which is the whole decoder.

    Raises:
        ValueError: the model has no decoder within it.
    """
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        raise ValueError(f"{type(model).__name__} has no decoder beside its head")
    return nn.ModuleList([decoder])


def keep_few(model: Any, layers: nn.ModuleList) -> KeptLayers:
    """Removes the layers of a model that repeat another one."""
    config = model.config.get_text_config(decoder=True)
    types = list(getattr(config, "layer_types", None) or [""] * len(layers))
    kinds = [(types[place], _kind(layer)) for place, layer in enumerate(layers)]
    last = len(layers) - 1
    chosen = {0, last}
    chosen |= {kinds.index(kind, 1) for kind in set(kinds[1:last])}
    places = tuple(sorted(chosen))
    between = {kinds[place]: position for position, place in enumerate(places) if 0 < place < last}
    stands_for = [between.get(kind, 0) for kind in kinds]
    stands_for[0], stands_for[last] = 0, len(places) - 1
    kept = [layers[place] for place in places]
    del layers[len(kept) :]
    for position, layer in enumerate(kept):
        layers[position] = layer
    if getattr(config, "layer_types", None):
        _set_layer_types(config, [types[place] for place in places])
    _renumber(model, places)
    return KeptLayers(places, tuple(stands_for), tuple(map(_chunk, kept)))


def _renumber(model: Any, places: tuple[int, ...]) -> None:
    """Gives shared blocks, which look up their adapters by a layer's number, the new numbers
    (transformers `models/zamba2/modeling_zamba2.py`)."""
    for module in model.modules():
        table = getattr(module, "layer_dic", None)
        if isinstance(table, dict):
            module.layer_dic = {
                number: table[place] for number, place in enumerate(places) if place in table
            }


def _set_layer_types(config: Any, types: list[str]) -> None:
    """Sets a configuration's `layer_types`, also where its class derives them from other fields."""
    try:
        config.layer_types = types
    except AttributeError:
        own = type(config)
        name = own.attribute_map.get("layer_types", "layer_types")
        config.__class__ = type(own.__name__, (own,), {name: types})


def keep_all(layers: nn.ModuleList) -> KeptLayers:
    """Every layer stands for itself."""
    everything = tuple(range(len(layers)))
    return KeptLayers(everything, everything, tuple(map(_chunk, layers)))


def _chunk(layer: nn.Module) -> int:
    found = [getattr(module, "chunk_size", None) for module in layer.modules()]
    return max((size for size in found if isinstance(size, int)), default=1)


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """Everything that layers of one kind have in common."""
    found = []
    for name, module in layer.named_modules():
        facts = tuple(
            (key, value)
            for key, value in sorted(vars(module).items())
            if isinstance(value, SIMPLE)
            and not key.startswith("_")
            and not any(word in key for word in NOT_A_KIND)
        )
        shapes = tuple(tuple(tensor.shape) for tensor in module.parameters(recurse=False))
        found.append((name, type(module).__name__, facts, shapes))
    return tuple(found)
