"""The module tree of a model, as transformers' own class builds it: linear layers, other tensors.

Layers of equal name (but for their numbers) and size are one group. `vram_search.model_code` reads
a tree from the class; `vram_search.models.tree` caches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

FORMAT = 1
"""Of the JSON; a cached tree of another format is read again from the class."""

Storage = Literal["nf4", "16-bit", "fp32"]
"""How a tensor lies on the card once the model is loaded in NF4 with 16 bits for the rest."""

Part = Literal["text", "head", "vision", "audio", "projector"]
"""Where a tensor belongs; `head` is the output layer, also where its weight is the embedding's."""

Numbers = tuple[int, ...]
"""Numbers in a module's name, from the left: the layer, then the expert."""


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers of one name and size.

    Attributes:
        pattern: the qualified name with `{}` in place of each number, for example
            `model.layers.{}.self_attn.q_proj`.
        numbers: of each layer, those that fill the pattern; one empty tuple where it has none.
        has_bias: a bias, which stays in 16 bits.
        storage: of the weights.
        class_name: of the module once it is loaded in NF4, for example `Linear4bit`.
        is_lora_target: LLaMA-Factory's `all` gives these layers an adapter.
    """

    pattern: str
    numbers: tuple[Numbers, ...]
    in_features: int
    out_features: int
    has_bias: bool
    storage: Storage
    part: Part
    class_name: str
    is_lora_target: bool

    @property
    def kind(self) -> str:
        """The last part of the name, `q_proj`."""
        return self.pattern.rpartition(".")[2]

    @property
    def count(self) -> int:
        """Layers in the group."""
        return len(self.numbers)

    @property
    def parameters(self) -> int:
        """Weights of one layer, without its bias."""
        return self.in_features * self.out_features

    def names(self) -> Iterator[str]:
        """Yields the qualified name of each layer."""
        return (self.pattern.format(*numbers) for numbers in self.numbers)


@dataclass(frozen=True)
class TensorGroup:
    """Parameters or buffers of one name and shape that no linear layer holds.

    Attributes:
        numbers: as in LinearGroup.
        element_bytes: bytes of an element on the card.
        is_buffer: a buffer, not a parameter.
        is_experts: the experts of a layer in one tensor, which bitsandbytes does not quantise
            (bitsandbytes#1849).
    """

    pattern: str
    numbers: tuple[Numbers, ...]
    shape: tuple[int, ...]
    element_bytes: int
    part: Part
    is_buffer: bool = False
    is_experts: bool = False

    @property
    def count(self) -> int:
        """Tensors in the group."""
        return len(self.numbers)

    @property
    def elements(self) -> int:
        """Elements of one tensor."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class ModelTree:
    """What a model consists of when it is loaded in NF4.

    Attributes:
        model_type: of the whole configuration.
        text_model_type: of its text part; the same for a model of text alone.
        class_name: transformers' class.
        auto_class: the class that loads it, for example `AutoModelForCausalLM`.
        tied: the head's weight is the embedding's.
        layers_pattern: the qualified name of a decoder layer, `model.layers.{}`; empty if unknown.
        layer_types: transformers' `layer_types` of the text part; empty where it has none.
        transformers_version: whose classes were read.
        config: the config.json that was read, as JSON.
        filled_config: the same with what its class fills in, as JSON.
    """

    model_type: str
    text_model_type: str
    class_name: str
    auto_class: str
    tied: bool
    num_hidden_layers: int
    layers_pattern: str
    layer_types: tuple[str, ...]
    linears: tuple[LinearGroup, ...]
    tensors: tuple[TensorGroup, ...]
    transformers_version: str
    config: str
    filled_config: str

    @property
    def has_other_parts(self) -> bool:
        """It has a vision tower, an audio tower or a projector."""
        parts = {g.part for g in self.linears} | {g.part for g in self.tensors}
        return bool(parts - {"text", "head"})

    @property
    def parameters(self) -> int:
        """All parameters; tied weights once."""
        weights = sum(g.count * g.parameters for g in self.linears)
        biases = sum(g.count * g.out_features for g in self.linears if g.has_bias)
        return weights + biases + sum(g.count * g.elements for g in self.tensors if not g.is_buffer)

    @property
    def expert_parameters(self) -> int:
        """Parameters of experts that stay in 16 bits."""
        return sum(group.count * group.elements for group in self.tensors if group.is_experts)

    @cached_property
    def lora_targets(self) -> tuple[LinearGroup, ...]:
        """The linear layers that LLaMA-Factory's `all` trains."""
        return tuple(group for group in self.linears if group.is_lora_target)

    def to_json(self) -> dict[str, Any]:
        """Returns the tree as a mapping for JSON."""
        return {"format": FORMAT, **asdict(self)}


def parse_tree(data: dict[str, Any]) -> ModelTree:
    """Returns the tree that `to_json` wrote.

    Raises:
        ValueError: the mapping is of another format.
    """
    fields = dict(data)
    if fields.pop("format", None) != FORMAT:
        raise ValueError("a tree of another format")
    linears = tuple(_group(LinearGroup(**group)) for group in fields.pop("linears"))
    tensors = tuple(
        replace(_group(TensorGroup(**group)), shape=tuple(group["shape"]))
        for group in fields.pop("tensors")
    )
    layer_types = tuple(fields.pop("layer_types"))
    return ModelTree(linears=linears, tensors=tensors, layer_types=layer_types, **fields)


Group = TypeVar("Group", LinearGroup, TensorGroup)


def _group(group: Group) -> Group:
    return replace(group, numbers=tuple(tuple(numbers) for numbers in group.numbers))
