"""The shipped shape that a hub name stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vram_search.models.derived_names import name_within
from vram_search.spec.hub_names import (
    MIRRORS,
    model_index,
    slugs_by_base_name,
    slugs_by_full_name,
)

QUANTISERS = frozenset(
    {
        *("axolotl-quants", "casperhansen", "hugging-quants", "ista-daslab", "neuralmagic"),
        *("nvidia", "redhatai", "solidrust", "techxgenus", "thebloke", "intel", "modelcloud"),
    }
)
"""Owners who publish quantised copies of other owners' models under the same name and an ending."""
CHECKPOINT_SUFFIXES = {
    "-unsloth-bnb-4bit": "bnb-4bit",
    "-bnb-4bit": "bnb-4bit",
    "-bnb-nf4-bf16": "bnb-4bit",
    "-bnb-nf4": "bnb-4bit",
    "-awq-int4": "awq",
    "-awq": "awq",
    "-gptq-int4": "gptq",
    "-gptq-int8": "gptq",
    "-gptq": "gptq",
    "-aqlm-2bit-1x16": "aqlm",
    "-fp8-dynamic": "fp8",
    "-fp8-block": "fp8",
    "-fp8": "fp8",
    "-nvfp4": "nvfp4",
    "-bf16": "",
    "-fp16": "",
}
"""Endings of copies of a model, and how their weights are stored; empty for 16 bits."""
_FORMATS = {
    **dict.fromkeys(("gptq", "gptqmodel", "autoround", "quantized", "w4a16", "w8a16"), "gptq"),
    **dict.fromkeys(("w8a8", "int4", "int8"), "gptq"),
    **dict.fromkeys(("awq", "aqlm", "fp8", "nvfp4"), ""),
    "fp4": "nvfp4",
}
"""Words of further endings -> how the weights are stored; empty where the word itself says it."""
_FORMAT = re.compile(rf"([-_]\dbit)?[-_.]({'|'.join(_FORMATS)})([-_.].*)?")
_NOT_LOADED = {
    "GGUF files": r".*[-_.](gguf|ggml|llamafile)([-_.].*)?",
    "ExLlama weights": r".*[-_.](exl2|exl3)([-_.].*)?",
    "MLX weights": r"(mlx-community/.*|.*[-_.]mlx([-_.].*)?)",
    "ONNX or OpenVINO weights": r"(openvino/.*|.*[-_.](onnx|openvino)([-_.].*)?)",
}
"""Weights that no trainer here loads -> a pattern for hub names in lower case."""
_NOT_LOADED_ENDING = re.compile(
    r"[-_.](gguf|ggml|llamafile|exl2|exl3|mlx|onnx|openvino|bf16|fp16|qat|i1|\dbit)([-_.].*)?"
)
_SIZE = re.compile(r"(^|[-_])\d+(\.\d+)?[bm]([-_]|$)")


@dataclass(frozen=True)
class ShippedName:
    """A shipped shape that a name stands for.

    Attributes:
        slug: folder in configs/models/.
        published: hub name of the model that the shape was read from.
        checkpoint: how the named model's weights are stored; empty for 16 or 32 bits.
    """

    slug: str
    published: str
    checkpoint: str = ""


def shipped_name(name: str) -> ShippedName | None:
    """Returns the shipped shape of a slug or hub name; None where the index has none.

    The owner counts: a model of an unknown owner may have other layers under the same name.
    """
    index = model_index()
    slug = name.lower()
    if slug in index:
        return ShippedName(slug, index[slug]["names"][0])
    for ending, checkpoint in {"": "", **CHECKPOINT_SUFFIXES}.items():
        if slug.endswith(ending):
            found = _by_owner(slug.removesuffix(ending), is_copy=bool(ending))
            if found is not None:
                return ShippedName(found, index[found]["names"][0], checkpoint)
    copied, checkpoint = _without_format(slug)
    found = _by_owner(copied, is_copy=True) if checkpoint else _without_owner(slug)
    return None if found is None else ShippedName(found, index[found]["names"][0], checkpoint)


def _without_owner(name: str) -> str | None:
    """Slug of a model's name that is written without its owner."""
    return None if "/" in name else slugs_by_base_name().get(name)


def _without_format(name: str) -> tuple[str, str]:
    """A name without the ending of a quantised copy, and how that stores its weights."""
    found = _FORMAT.search(name, name.rfind("/") + 1)
    if found is None:
        return name, ""
    return name[: found.start()], _FORMATS[found[2]] or found[2]


def not_loaded(name: str) -> str:
    """Weights that no trainer here loads, in words, if a hub name tells; else empty."""
    lower = name.lower()
    if "/" not in lower:
        return ""
    return next((what for what, names in _NOT_LOADED.items() if re.fullmatch(names, lower)), "")


def original_of(name: str) -> ShippedName | None:
    """Returns the shipped shape of the model that a copy for other programs was made from."""
    base = name.lower().rsplit("/", 1)[-1]
    found = _NOT_LOADED_ENDING.search(base)
    return same_name(base[: found.start()] if found else base)


def same_name(name: str) -> ShippedName | None:
    """Returns the shipped shape of a model with this name, or a part of it, and any owner.

    "someone/Qwen2.5-7B-Instruct-tuned" begins with the name of Qwen2.5 7B. A start counts only if
    it states a size and the rest does not; `name_within` says which other parts count.
    """
    names = slugs_by_base_name()
    base, checkpoint = name.rsplit("/", 1)[-1].lower(), ""
    for ending, stored in CHECKPOINT_SUFFIXES.items():
        if base.endswith(ending):
            base, checkpoint = base.removesuffix(ending), stored
            break
    else:
        base, checkpoint = _without_format(base)
    known = base if base in names else _longest_start(base, names) or name_within(base, names)
    if known is None:
        return None
    slug = names[known]
    return ShippedName(slug, model_index()[slug]["names"][0], checkpoint)


def _longest_start(base: str, names: dict[str, str]) -> str | None:
    starts = (
        known
        for known in names
        if base.startswith((f"{known}-", f"{known}_"))
        and _SIZE.search(known)
        and not _SIZE.search(base.removeprefix(known))
    )
    return max(starts, key=len, default=None)


def hub_names() -> list[str]:
    """Returns all hub names of the index, as published."""
    return [name for entry in model_index().values() for name in entry["names"]]


def _by_owner(name: str, *, is_copy: bool) -> str | None:
    """Slug of a hub name in lower case: the owner's own, or a republished one of the same name."""
    found = slugs_by_full_name().get(name)
    owner, _, base = name.partition("/")
    republishes = owner in MIRRORS or (is_copy and owner in QUANTISERS)
    return slugs_by_base_name().get(base) if found is None and republishes else found
