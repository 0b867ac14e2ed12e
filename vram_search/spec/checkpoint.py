"""Weights that a model's files hold quantised already: their format and their real size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError
from vram_search.spec.config_fields import ConfigFields
from vram_search.spec.model_tree import LinearGroup

FP8_BLOCK = (128, 128)
"""Weights that share a scale in fp32 (transformers `FineGrainedFP8Config`)."""
GROUP = 128
"""Weights that share a scale if the file does not say (AutoAWQ, GPTQModel)."""
_BITS = {
    **{"awq": 4, "gptq": 4, "hqq": 4, "aqlm": 2, "fp8": 8, "nvfp4": 4, "auto-round": 4, "sinq": 4},
    **{"mxfp8": 8, "eetq": 8, "fbgemm_fp8": 8, "bitnet": 2, "higgs": 4, "quanto": 8, "torchao": 8},
}
"""Bits of a weight where the file does not say."""
_WITH_ZEROS = frozenset({"awq", "gptq", "hqq", "auto-round", "sinq"})
_BY_ROW = frozenset({"eetq", "fbgemm_fp8", "bitnet"})
"""Formats with one scale for each output."""
_NAMED_BITS = re.compile(r"(?i)(?:int|uint|float)(\d+)")
"""The bits in names such as `int4` (quanto) or `Int8WeightOnlyConfig` (torchao)."""
NF4_GROUP, NVFP4_GROUP = 64, 16
_SIXTEEN_BITS, _FP32_BITS = 16, 32
NOT_SEARCHED = "a search trains plain weights, and 4 bits of bitsandbytes"
FROM_SIXTEEN_BITS = (
    "name the model that they were made from, in 16 bits: it is quantised when it is loaded"
)
DEQUANTIZED = frozenset({"mxfp4"})
"""Formats that no tool trains as they are stored: transformers turns them into 16 bits
(`quantizers/quantizer_mxfp4.py`, `is_trainable`)."""


@dataclass(frozen=True)
class Checkpoint:
    """The format of quantised weights.

    Attributes:
        method: `quant_method`, as transformers names it.
        bits: of one weight, without its scales.
        group_size: weights that share a scale; 0 if a row of outputs does.
        kept: names of modules that stay in 16 bits.
        scale_bits: bits of a group's scale and zero point; 0 if the weights take what bitsandbytes'
            own formats do, or are turned into those.
    """

    method: str
    bits: float
    group_size: int
    kept: tuple[str, ...] = ()
    scale_bits: float = 0

    @property
    def title(self) -> str:
        """The method with its bits where several are usual: "gptq, 8 bits"."""
        if self.method == "bitsandbytes":
            return f"bitsandbytes, {self.bits:g} bits"
        is_usual = self.bits == _BITS.get(self.method, self.bits)
        return self.method if is_usual else f"{self.method}, {self.bits:g} bits"

    @property
    def is_trained(self) -> bool:
        """True if a search trains it: bitsandbytes' 4 bits, which it makes of plain weights too."""
        return self.method == "bitsandbytes" and self.bits == 4

    @property
    def is_int8(self) -> bool:
        """True if the files hold bitsandbytes' 8 bits, which stay as they are."""
        return self.method == "bitsandbytes" and self.bits == 8

    @property
    def has_own_size(self) -> bool:
        """True if its weights take other bytes than bitsandbytes' own formats."""
        return self.scale_bits > 0

    def weight_bytes(self, in_features: int, out_features: int) -> float:
        """Returns the bytes of a linear layer's weights with their scales; biases excluded."""
        count = in_features * out_features
        if self.method == "fp8" and self.group_size:
            rows, columns = FP8_BLOCK
            scales = -(-out_features // rows) * -(-in_features // columns)
        else:
            scales = count // self.group_size if self.group_size else out_features
        order = 4 * in_features if self.method == "gptq" else 0  # `g_idx`
        return (count * self.bits + scales * self.scale_bits) / 8 + order

    def kept_layers(self, group: LinearGroup) -> int:
        """Returns how many of these layers are in 16 bits in the files."""
        if not self.kept:
            return 0
        return sum(any(_names(kept, name) for kept in self.kept) for name in group.names())


def _names(kept: str, name: str) -> bool:
    """Returns True if a name of the list, with `*` for a number, is a part of a module's path."""
    pattern = re.escape(kept).replace(r"\*", r"[^.]*")
    return re.search(rf"(^|\.){pattern}(\.|$)", name) is not None


def stored_words(checkpoint: Checkpoint | None) -> str:
    """Says how the weights of a quantised checkpoint are counted; empty for weights that are
    trained as a search trains them."""
    if checkpoint is None or checkpoint.is_trained:
        return ""
    words = f"the weights are quantised already ({checkpoint.title})"
    if checkpoint.method in DEQUANTIZED:
        return f"{words}; training turns them into 16 bits, and so they are counted"
    return f"{words} and counted with their real size; {NOT_SEARCHED}"


def refused(name: str, title: str) -> InputError:
    """Returns the refusal of a search on weights in a format of this title."""
    return InputError(
        f"the weights of {name} are quantised already ({title}); {NOT_SEARCHED}",
        FROM_SIXTEEN_BITS,
    )


def read_checkpoint(fields: ConfigFields) -> Checkpoint | None:
    """Returns the format that `quantization_config` names; None for plain weights.

    Sources: transformers `utils/quantization_config.py`; compressed-tensors' `config_groups`.

    Raises:
        InputError: the section is no mapping, a value of another kind, or a format whose bytes
            are not known.
    """
    section = fields.section("quantization_config")
    if section is None:
        return None
    values = ConfigFields(section, fields.place)
    method, kept = quantization_method(values), _kept(values)
    if method.startswith("bitsandbytes"):
        in_eight = values.flag("load_in_8bit") or method.endswith("8bit")
        is_double = in_eight or values.flag("bnb_4bit_use_double_quant")
        scale_bits = 0 if is_double else _FP32_BITS
        return Checkpoint("bitsandbytes", 8 if in_eight else 4, NF4_GROUP, kept, scale_bits)
    if method == "compressed-tensors":
        return _compressed(values, kept)
    if method in DEQUANTIZED:
        return Checkpoint(method, _SIXTEEN_BITS, GROUP, kept)
    if method not in _BITS:
        raise InputError(
            f"{fields.place}: the weights are quantised already, and the bytes of quant_method "
            f"{method!r} are not known",
            FROM_SIXTEEN_BITS,
        )
    bits = _bits(values, method)
    if method in ("fp8", "mxfp8"):
        in_blocks = section.get("weight_block_size") is not None
        return Checkpoint(method, bits, GROUP if in_blocks else 0, kept, _FP32_BITS)
    if method == "nvfp4":
        return Checkpoint(method, bits, NVFP4_GROUP, kept, 8)
    size = _own_section(values).get("group_size", 0 if method in _BY_ROW else GROUP)
    group_size = size if isinstance(size, int) and size > 0 else 0
    zero_bits = bits if method in _WITH_ZEROS else 0
    return Checkpoint(method, bits, group_size, kept, _SIXTEEN_BITS + zero_bits)


def checkpoint_of_file(values: dict[str, Any], source: str) -> Checkpoint | None:
    """Returns the format that a whole config.json names, or its text part.

    Raises:
        InputError: as `read_checkpoint` does.
    """
    outer = ConfigFields(values, source)
    text = outer.section("text_config")
    return read_checkpoint(outer) or (
        None if text is None else read_checkpoint(ConfigFields(text, source))
    )


def _own_section(values: ConfigFields) -> dict[str, Any]:
    """Returns the mapping with bits and group size; hqq nests it."""
    nested = (values.section("quant_config") or {}).get("weight_quant_params")
    return nested if isinstance(nested, dict) else dict(values.values)


def _bits(values: ConfigFields, method: str) -> float:
    """Returns the bits of a weight without its scales."""
    section = _own_section(values)
    if method == "aqlm":
        codes = values.count("num_codebooks") * values.count("nbits_per_codebook")
        entries = values.count("in_group_size") * (values.count("out_group_size") or 1)
        return codes / entries if codes and entries else _BITS[method]
    if method in ("quanto", "torchao"):
        named = _NAMED_BITS.search(str(section.get("weights") or section.get("quant_type")))
        return int(named[1]) if named else _BITS[method]
    for key in ("bits", "nbits"):
        if isinstance(section.get(key), int) and section[key] > 0:
            return int(section[key])
    return _BITS[method]


def quantization_method(values: ConfigFields) -> str:
    """Returns the `quant_method`. Files of 2023 leave it out for bitsandbytes, as transformers
    allows.

    Raises:
        InputError: it is missing.
    """
    if values.flag("load_in_4bit") or values.flag("load_in_8bit"):
        return values.text_or_none("quant_method") or "bitsandbytes"
    return values.text("quant_method")


def _kept(values: ConfigFields) -> tuple[str, ...]:
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules"):
        named = values.values.get(key)
        if isinstance(named, list):
            return tuple(name for name in named if isinstance(name, str))
    return ()


def _compressed(values: ConfigFields, kept: tuple[str, ...]) -> Checkpoint:
    """Reads the weights of the first group of a compressed-tensors configuration."""
    groups = values.section("config_groups") or {}
    first: Any = next(iter(groups.values()), None)
    weights: Any = first.get("weights") if isinstance(first, dict) else None
    named: dict[str, Any] = weights if isinstance(weights, dict) else {}
    bits, size = named.get("num_bits"), named.get("group_size")
    return Checkpoint(
        "compressed-tensors",
        bits if isinstance(bits, int) else 8,
        size if isinstance(size, int) and size > 0 else 0,
        kept,
        _SIXTEEN_BITS,
    )
