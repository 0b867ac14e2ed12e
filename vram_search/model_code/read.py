"""Reads the tree of a built model: its linear layers and its other tensors, in groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import bitsandbytes as bnb
import torch
import transformers
from transformers import conversion_mapping
from transformers.pytorch_utils import Conv1D

from vram_search.model_code.build import kept_in_fp32
from vram_search.spec.expert_targets import NAMES, PATTERNS
from vram_search.spec.model_tree import LinearGroup, ModelTree, Numbers, Part, Storage, TensorGroup

NOT_TRAINED_BY_ALL = {"chatglm": "output_layer", "internlm2": "output"}
"""model_type -> its head, which LLaMA-Factory's `all` leaves out besides `lm_head`."""
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
REFUSED_BY_PEFT = frozenset({"out_proj", "conv1d"})
"""Layers that peft gives no LoRA adapter in these models: `_check_lora_target_modules_mamba` of
`tuners/tuners_utils.py` (peft 0.21)."""


REFUSED_CLASSES = ("GroupedLinear",)
"""Parts of the names of classes whose output has another size than their LoRA adapter's, so that
the forward pass fails (transformers `models/deepseek_v4/modeling_deepseek_v4.py`)."""


LAYER_COUNTS = ("num_hidden_layers", "decoder_layers", "num_layers")
"""Fields of a text configuration for the number of decoder layers."""
BESIDE_TEXT = "embed_tokens_extend"
"""Phi-4-multimodal's vision and audio towers, which stand within its text model
(transformers `models/phi4_multimodal/modeling_phi4_multimodal.py`)."""
PROJECTORS = ("projector", "merger", "connector", "img_projection", "_proj_for_")
"""Parts of the names of modules that turn images or audio into the text model's embeddings."""


def read_tree(
    model: Any, auto_class: str, values: dict[str, Any], dtype: torch.dtype = torch.bfloat16
) -> ModelTree:
    """Returns the tree of a model that was built on the meta device and quantised in NF4, or of a
    loaded one.

    Args:
        auto_class: name of the class that loads it.
        values: the config.json that it was built from.
        dtype: of the weights that are neither quantised nor kept in fp32; they count as 16 bits.
    """
    config = model.config
    text = config.get_text_config(decoder=True)
    part_of = _parts(model)
    layer_types = getattr(text, "layer_types", None) or ()
    layers_pattern, layers = _decoder_layers(model, layer_counts(text))
    return ModelTree(
        model_type=config.model_type,
        text_model_type=text.model_type,
        class_name=type(model).__name__,
        auto_class=auto_class,
        tied=_is_tied(model),
        num_hidden_layers=layers,
        layers_pattern=layers_pattern,
        layer_types=tuple(str(kind) for kind in layer_types),
        linears=_linears(model, part_of, dtype),
        tensors=_tensors(model, part_of, dtype),
        transformers_version=transformers.__version__,
        config=json.dumps(values),
        filled_config=json.dumps(plain(config.to_dict())),
        is_usually_tied=not _is_tied(model)
        and bool(getattr(type(config), "tie_word_embeddings", False)),
    )


def plain(value: Any) -> Any:
    """Returns a configuration's values as JSON knows them; others as text."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def is_linear(module: Any) -> bool:
    """Returns True for a layer whose weight is a matrix that an input is multiplied by."""
    return isinstance(module, (torch.nn.Linear, Conv1D))


def in_and_out(module: Any) -> tuple[int, int]:
    """Returns the input and output features of a linear layer."""
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return int(module.in_features), int(module.out_features)


def trained_by_all(model: Any, part_of: Callable[[str], Part]) -> set[str]:
    """Returns the names of the linear layers that LLaMA-Factory's `all` gives an adapter.

    LLaMA-Factory 0.9.5, `model_utils/misc.py` (`find_all_linear_modules`) and `visual.py`
    (`patch_target_modules`): every module whose class is named "...Linear...", without the head,
    and of a model with several parts the text part alone. Layers that cannot have an adapter are
    left out, as LLaMA-Factory stops there, and so are those in place of which peft would train all
    experts (`spec.expert_targets`).
    """
    head = NOT_TRAINED_BY_ALL.get(model.config.model_type, "lm_head")
    refused = REFUSED_BY_PEFT if model.config.model_type in MAMBA_TYPES else frozenset()
    refused |= _expert_names(model.config.model_type)
    return {
        name
        for name, module in model.named_modules()
        if "Linear" in type(module).__name__
        and "Embedding" not in type(module).__name__
        and not any(word in type(module).__name__ for word in REFUSED_CLASSES)
        and is_linear(module)
        and part_of(name) == "text"
        and "lm_head" not in name
        and head not in name
        and name.rpartition(".")[2] not in refused
    }


def _expert_names(model_type: str) -> frozenset[str]:
    """Returns the names that peft takes for those of experts, also in a family that a newer version
    of transformers has added."""
    added = getattr(conversion_mapping, "_MODEL_TO_CONVERSION_PATTERN", {})
    pattern = PATTERNS.get(model_type) or added.get(model_type, "")
    return NAMES.get(pattern, frozenset())


def _parts(model: Any) -> Callable[[str], Part]:
    """Returns a function from a qualified name to its part."""
    head = model.get_output_embeddings()
    head_name = next((name for name, one in model.named_modules() if one is head), "lm_head")
    config = model.config
    is_wrapper = config.get_text_config(decoder=True) is not config
    decoder = model.get_decoder() if is_wrapper else None
    text_name = next((name for name, one in model.named_modules() if one is decoder), "")

    def part_of(name: str) -> Part:
        if name == head_name or name.startswith(f"{head_name}."):
            return "head"
        is_beside_text = f".{BESIDE_TEXT}." in name
        if not is_beside_text and (not text_name or f"{name}.".startswith(f"{text_name}.")):
            return "text"
        if "audio" in name and "_proj_for_" not in name:
            return "audio"
        if any(word in name for word in PROJECTORS) or (".embed_" in name and not is_beside_text):
            return "projector"
        return "vision"

    return part_of


def _is_tied(model: Any) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def layer_counts(text: Any) -> list[int]:
    """Returns what a text configuration may call the number of its decoder layers, the most usual
    name first: a decoder with an encoder beside it, and layers that hold two each, have others."""
    found = [getattr(text, name, None) for name in LAYER_COUNTS]
    return [count for count in found if isinstance(count, int) and count > 0]


def _decoder_layers(model: Any, counts: list[int]) -> tuple[str, int]:
    """Returns the name of the text part's layers with `{}` for the number, and their count.

    Args:
        counts: as the configuration says; empty where it does not, and the longest list counts.
    """
    decoder = model.get_decoder() or model
    prefix = next((name for name, one in model.named_modules() if one is decoder), "")
    lists = {
        name: len(module)
        for name, module in decoder.named_modules(prefix=prefix)
        if isinstance(module, torch.nn.ModuleList)
    }
    for count in counts or [max(lists.values(), default=0)]:
        found = next((name for name, length in lists.items() if length == count), None)
        if found is not None:
            return f"{found}.{{}}", count
    return "", counts[0] if counts else 1


def numbered(name: str) -> tuple[str, Numbers]:
    """Splits the numbers of a qualified name off: `a.3.b` becomes `a.{}.b` and (3,)."""
    words = name.split(".")
    numbers = tuple(int(word) for word in words if word.isdecimal())
    return ".".join("{}" if word.isdecimal() else word for word in words), numbers


def _linears(
    model: Any, part_of: Callable[[str], Part], dtype: torch.dtype
) -> tuple[LinearGroup, ...]:
    is_fp32 = kept_in_fp32(model)
    targets = trained_by_all(model, part_of)
    groups: dict[LinearGroup, list[Numbers]] = {}
    counted: set[int] = set()
    embedding = model.get_input_embeddings()
    for name, module in model.named_modules():
        if not is_linear(module) or module.weight is embedding.weight:
            continue
        pattern, numbers = numbered(name)
        inputs, outputs = in_and_out(module)
        group = LinearGroup(
            pattern=pattern,
            numbers=(),
            in_features=inputs,
            out_features=outputs,
            has_bias=module.bias is not None and id(module.bias) not in counted,
            storage="shared"
            if id(module.weight) in counted
            else _storage(module, dtype, is_fp32(f"{name}.weight")),
            part=part_of(name),
            class_name=type(module).__name__,
            is_lora_target=name in targets,
        )
        groups.setdefault(group, []).append(numbers)
        counted |= {id(parameter) for parameter in module.parameters(recurse=False)}
    return tuple(_with_numbers(groups))


def _storage(module: Any, dtype: torch.dtype, is_kept_in_fp32: bool) -> Storage:
    if isinstance(module, bnb.nn.Linear4bit):
        return "nf4"
    in_fp32 = module.weight.dtype == torch.float32 and dtype != torch.float32
    return "fp32" if in_fp32 or is_kept_in_fp32 else "16-bit"


def _tensors(
    model: Any, part_of: Callable[[str], Part], dtype: torch.dtype
) -> tuple[TensorGroup, ...]:
    """Returns all tensors that no linear layer holds; a shared one is counted once."""
    is_fp32 = kept_in_fp32(model)
    embedding = model.get_input_embeddings()
    linears = [m for m in model.modules() if is_linear(m) and m.weight is not embedding.weight]
    in_linears = {id(parameter) for module in linears for parameter in module.parameters(False)}
    groups: dict[TensorGroup, list[Numbers]] = {}
    seen = set(in_linears)
    named = [(name, p, False) for name, p in model.named_parameters(remove_duplicate=False)]
    named += [(name, b, True) for name, b in model.named_buffers(remove_duplicate=False)]
    for name, tensor, is_buffer in named:
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        pattern, numbers = numbered(name)
        group = TensorGroup(
            pattern=pattern,
            numbers=(),
            shape=tuple(tensor.shape),
            element_bytes=_element_bytes(tensor, dtype, is_fp32(name), is_buffer),
            part=part_of(name),
            is_buffer=is_buffer,
            is_experts=not is_buffer and _is_experts(model, name, tensor),
        )
        groups.setdefault(group, []).append(numbers)
    return tuple(_with_numbers(groups))


def _element_bytes(
    tensor: torch.Tensor, dtype: torch.dtype, is_kept_in_fp32: bool, is_buffer: bool
) -> int:
    if is_kept_in_fp32:
        return 4
    return 2 if tensor.dtype == dtype and not is_buffer else tensor.element_size()


def _is_experts(model: Any, name: str, tensor: torch.Tensor) -> bool:
    """Returns True for the weights of several experts; a convolution's have three axes too."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return tensor.ndim == 3 and not isinstance(owner, torch.nn.modules.conv._ConvNd)


Group = TypeVar("Group", LinearGroup, TensorGroup)


def _with_numbers(groups: dict[Group, list[Numbers]]) -> list[Group]:
    return [replace(group, numbers=tuple(numbers)) for group, numbers in groups.items()]
