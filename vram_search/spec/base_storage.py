"""The forms in which a base model's parameters are on the card: predicted, and as loaded."""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.spec.lora_matching import TRAINED_PARTS
from vram_search.spec.model_tree import ModelTree
from vram_search.spec.shape import ModelShape
from vram_search.units import format_bytes

NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a parameter in NF4 with double quantisation: 4 bits, one byte for 64 of them, and four
bytes for 256 of those (bitsandbytes `functional.quantize_4bit`)."""
LARGE_SHARE = 0.05
"""Smallest share of the parameters whose form is explained."""
NOTICED_SHARE = 0.001
"""Smallest difference in bytes that is reported. Loading adds no parameters by itself."""


@dataclass(frozen=True)
class BaseStorage:
    """Numbers of parameters by their form on the card, tied ones once.

    Attributes:
        experts: those of `sixteen_bit` that are experts of a mixture.
    """

    nf4: int
    sixteen_bit: int
    fp32: int
    experts: int

    @property
    def size_bytes(self) -> int:
        """Bytes on the card, without the allocator's rounding."""
        return round(NF4_BYTES * self.nf4 + 2 * self.sixteen_bit + 4 * self.fp32)

    def differs(self, other: BaseStorage) -> bool:
        """Returns True if one of two storages has more bytes, or more parameters in NF4."""
        bytes_apart = abs(self.size_bytes - other.size_bytes)
        nf4_apart = abs(self.nf4 - other.nf4)
        return (
            bytes_apart > NOTICED_SHARE * self.size_bytes
            or nf4_apart > NOTICED_SHARE * self.parameters
        )

    @property
    def parameters(self) -> int:
        return self.nf4 + self.sixteen_bit + self.fp32


def predicted_storage(shape: ModelShape) -> BaseStorage:
    """Returns how the base model of a shape is predicted to be on the card in NF4."""
    if shape.tree is not None:
        return storage_of(shape.tree)
    kept = shape.parameters - shape.linear_parameters
    return BaseStorage(shape.linear_parameters, kept, 0, shape.expert_parameters)


def storage_of(tree: ModelTree) -> BaseStorage:
    """Returns the parameters of a module tree by their form."""
    numbers = {"nf4": 0, "16-bit": 0, "fp32": 0, "shared": 0}
    for linear in tree.linears:
        numbers[linear.storage] += linear.count * linear.parameters
        numbers["16-bit"] += linear.count * linear.out_features * linear.has_bias
    for group in tree.tensors:
        if not group.is_buffer:
            form = "fp32" if group.element_bytes == 4 else "16-bit"
            numbers[form] += group.count * group.elements
    return BaseStorage(numbers["nf4"], numbers["16-bit"], numbers["fp32"], tree.expert_parameters)


def expert_words(storage: BaseStorage) -> str:
    """Says that the experts are not quantised; empty for a model without such experts."""
    if not storage.experts:
        return ""
    return (
        f"the experts stay in 16 bits: {format_bytes(2 * storage.experts)}, which would be "
        f"{format_bytes(round(NF4_BYTES * storage.experts))} in NF4; bitsandbytes quantises linear "
        "layers alone (bitsandbytes#1849)"
    )


def unquantised_words(shape: ModelShape) -> str:
    """Says which weights of a model nothing quantises: experts, or its own kind of linear layer;
    empty if there are none."""
    return expert_words(predicted_storage(shape)) or _own_layer_words(shape.tree)


def _own_layer_words(tree: ModelTree | None) -> str:
    if tree is None:
        return ""
    own = [
        group
        for group in tree.linears
        if group.storage == "16-bit" and group.class_name not in ("Linear", "Linear4bit")
    ]
    number = sum(group.count * group.parameters for group in own)
    if number < LARGE_SHARE * storage_of(tree).parameters:
        return ""
    names = ", ".join(dict.fromkeys(group.class_name for group in own))
    return (
        f"the layers {names} stay in 16 bits: {format_bytes(2 * number)}, which would be "
        f"{format_bytes(round(NF4_BYTES * number))} in NF4; transformers 5 quantises torch's own "
        "linear layers alone"
    )


def frozen_part_words(tree: ModelTree | None) -> str:
    """Says which parts of a model training on text does not run, and their bytes on the card; empty
    for a model of text alone."""
    if tree is None or not tree.has_other_parts:
        return ""
    size = 0.0
    for linear in tree.linears:
        if linear.part not in TRAINED_PARTS:
            element = {"nf4": NF4_BYTES, "fp32": 4.0}.get(linear.storage, 2.0)
            size += linear.count * (
                element * linear.parameters + 2 * linear.out_features * linear.has_bias
            )
    size += sum(
        g.count * g.elements * g.element_bytes for g in tree.tensors if g.part not in TRAINED_PARTS
    )
    parts = {g.part for g in tree.linears} | {g.part for g in tree.tensors}
    names = " and ".join(sorted(parts - TRAINED_PARTS))
    return (
        f"the text part is trained; {names} ({format_bytes(round(size))} of the card, counted) "
        "stay frozen, and text alone does not run them. Every tool loads them: a checkpoint of the "
        "text part alone would leave them off the GPU"
    )


def difference_words(predicted: BaseStorage, loaded: BaseStorage) -> str:
    """Says in one sentence that a base model was loaded in another form than predicted."""
    words = (
        f"the base model takes {format_bytes(loaded.size_bytes)}, not the predicted "
        f"{format_bytes(predicted.size_bytes)}: {loaded.nf4:,} parameters are in NF4, not "
        f"{predicted.nf4:,}"
    )
    if loaded.experts and loaded.nf4 < predicted.nf4:
        words += f"; {expert_words(loaded)}"
    elif loaded.fp32 > predicted.fp32:
        words += f", and {loaded.fp32:,} are in fp32, not {predicted.fp32:,}"
    return words
