"""The module tree of a model, as transformers' own class builds it: linear layers, other tensors.

Layers of equal name (but for their numbers) and size are one group. `vram_search.model_code` reads
a tree from the class; `vram_search.models.tree` caches it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

FORMAT = 3
"""Version of the JSON. A cached tree of another version is read from the class again."""

Storage = Literal["nf4", "16-bit", "fp32", "shared"]
"""The form of a layer's weights on the card if the model is loaded in NF4 and the rest in 16 bits;
`shared` weights are those of another layer."""

Part = Literal["text", "head", "vision", "audio", "projector"]
"""The part of the model that a tensor belongs to. `head` is the output layer, tied or not."""

Numbers = tuple[int, ...]
"""Numbers in a module's name, from the left: the layer, then the expert."""


@dataclass(frozen=True)
class LinearGroup:
    """Linear layers of one name and size.

    Attributes:
        pattern: the qualified name with `{}` in place of each number, for example
            `model.layers.{}.self_attn.q_proj`.
        numbers: the numbers that fill the pattern, for each layer; one empty tuple if the pattern
            has no numbers.
        has_bias: True if the layers have a bias, which stays in 16 bits.
        storage: form of the weights on the card.
        class_name: class of the module after loading in NF4, for example `Linear4bit`.
        is_lora_target: True if LLaMA-Factory's `all` gives these layers an adapter.
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
        """Weights of one layer, without its bias and without what it shares."""
        return 0 if self.storage == "shared" else self.in_features * self.out_features

    def names(self) -> Iterator[str]:
        """Yields the qualified name of each layer."""
        return (self.pattern.format(*numbers) for numbers in self.numbers)


@dataclass(frozen=True)
class TensorGroup:
    """Parameters or buffers of one name and shape that no linear layer holds.

    Attributes:
        numbers: as in LinearGroup.
        element_bytes: bytes of an element on the card.
        is_buffer: True for a buffer, False for a parameter.
        is_experts: True if the tensor contains the experts of a layer, which bitsandbytes does not
            quantise (bitsandbytes#1849).
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
    """The modules and tensors of a model that is loaded in NF4.

    Attributes:
        model_type: model_type of the whole configuration.
        text_model_type: model_type of the text part; equal to model_type for a text-only model.
        class_name: the model's class in transformers.
        auto_class: the class that loads it, for example `AutoModelForCausalLM`.
        tied: True if the head uses the weight of the embedding.
        layers_pattern: the qualified name of a decoder layer, `model.layers.{}`; empty if unknown.
        layer_types: `layer_types` of the text part in transformers; empty if it has none.
        transformers_version: the version whose classes were read.
        config: the config.json that was read, as JSON.
        filled_config: the same configuration with the defaults of its class, as JSON.
        is_usually_tied: True if the head is not tied although the class ties it by default.
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
    is_usually_tied: bool = False

    @property
    def has_other_parts(self) -> bool:
        """True if the model has a vision tower, an audio tower or a projector."""
        parts = {g.part for g in self.linears} | {g.part for g in self.tensors}
        return bool(parts - {"text", "head"})

    @property
    def parameters(self) -> int:
        """Number of all parameters; tied weights count once."""
        weights = sum(g.count * g.parameters for g in self.linears)
        biases = sum(g.count * g.out_features for g in self.linears if g.has_bias)
        return weights + biases + sum(g.count * g.elements for g in self.tensors if not g.is_buffer)

    @property
    def expert_parameters(self) -> int:
        """Number of parameters in experts that stay in 16 bits. A vision tower has tensors of three
        axes that are no experts."""
        return sum(
            group.count * group.elements
            for group in self.tensors
            if group.is_experts and group.part == "text"
        )

    @cached_property
    def lora_targets(self) -> tuple[LinearGroup, ...]:
        """The linear layers that LLaMA-Factory's `all` trains."""
        return tuple(group for group in self.linears if group.is_lora_target)

    @cached_property
    def other_modules(self) -> tuple[str, ...]:
        """Patterns of the modules that hold tensors and are no linear layers."""
        return tuple(dict.fromkeys(group.pattern.rpartition(".")[0] for group in self.tensors))

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


MOST_NUMBERS = 16
"""More numbers at one place of a name are those of experts."""


def name_expression(groups: Iterable[LinearGroup]) -> str:
    """Returns a regular expression for the names of layers, whatever the number of their decoder
    layer. Other numbers count, since a `Sequential` has other modules too, unless there are more
    than MOST_NUMBERS of them (experts). A number at the end is one of a `Sequential`."""
    numbers: dict[str, set[Numbers]] = {}
    for group in groups:
        numbers.setdefault(group.pattern, set()).update(group.numbers)
    return "|".join(_expression(pattern, numbers[pattern]) for pattern in sorted(numbers))


def _expression(pattern: str, numbers: set[Numbers]) -> str:
    first, *others = re.escape(pattern).split(r"\{\}")
    found = first
    for place, text in enumerate(others):
        seen = sorted({one[place] for one in numbers})
        is_free = (place == 0 and text) or len(seen) > MOST_NUMBERS
        found += (r"\d+" if is_free else f"(?:{'|'.join(map(str, seen))})") + text
    return found


Group = TypeVar("Group", LinearGroup, TensorGroup)


def _group(group: Group) -> Group:
    return replace(group, numbers=tuple(tuple(numbers) for numbers in group.numbers))
