"""The model that a training file names: its shape, how its weights are stored, its LoRA modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from vram_search.errors import InputError, ModelNotFoundError
from vram_search.estimate.recipes.expert_adapters import NO_EXPERTS, ExpertAdapters
from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.models import FoundModel, find_by_path, find_model
from vram_search.spec.config_fields import load_config
from vram_search.spec.lora_targets import LORA_TARGET_SETS, compiled_expression, is_expression
from vram_search.spec.shape import ModelShape
from vram_search.typed_fields import shown

STORED = {
    **dict.fromkeys(["bnb-4bit", "bitsandbytes", "awq", "gptq", "nvfp4", "aqlm"], "nf4"),
    "fp8": "int8",
}
"""How a quantised checkpoint is counted: 4-bit formats as NF4, which differs by a few percent, and
8 bits as int8. AQLM's 2 bits are counted as 4."""

OWN_CODE = {
    "chatglm": "the publisher's code keeps two more copies of the logits in fp32, not modelled"
}
"""Why models with code of their publisher need more (`modeling_chatglm.py`, `forward`)."""
_EIGHT_BITS = re.compile(r"int8|8[-_]?bit|w8a|q8")
_ROOTS = ("model.", "model.language_model.", "language_model.model.", "model.text_model.")
_MLP = ("down_proj", "gate_proj", "up_proj", "gate_up_proj")


@dataclass(frozen=True)
class RecipeModel:
    """The model of a recipe.

    Attributes:
        name: as the file writes it.
        checkpoint: format of weights that are quantised already, a key of STORED; else empty.
        stored: how the weights are counted; `none` where they are in 16 bits.
        notes: where the shape came from.
        needs_more: why the model needs more than its shape tells.
    """

    name: str
    shape: ModelShape
    checkpoint: str
    stored: str
    notes: tuple[str, ...]
    needs_more: tuple[str, ...]


def model_named(keys: RecipeKeys) -> RecipeModel:
    """The model of `model_name_or_path`, or the one that is given in its place; a relative folder
    may start from the file's.

    Raises:
        ModelNotFoundError: no such model, or the hub cannot be asked for it.
        InputError: the model cannot be used.
    """
    name = keys.model or keys.text_or_none("model_name_or_path")
    if name is None:
        raise keys.missing(
            "model_name_or_path", "write the model's name or folder, or give it with --model"
        )
    try:
        found = _found(name, keys)
        shape = found.shape()
    except ModelNotFoundError as error:
        place = f"{keys.place}: {keys.found('model_name_or_path')[0]}"
        raise ModelNotFoundError(f"{place}: {error.message}", error.remedy) from None
    except InputError as error:
        raise keys.refused("model_name_or_path", error.message, error.remedy) from None
    config = found.config if found.config.is_file() else found.config / "config.json"
    section = load_config(config).get("quantization_config")
    method = section.get("quant_method") if isinstance(section, dict) else None
    checkpoint = str(found.checkpoint or (method if method in STORED else ""))
    stored = _stored(name, checkpoint, section if isinstance(section, dict) else {})
    notes = (found.note,) if found.note else ()
    if keys.is_stand_in:
        name, notes = keys.text("model_name_or_path"), ()
    own_code = OWN_CODE.get(shape.model_type)
    needs_more = (f"{name}: {own_code}",) if own_code else ()
    return RecipeModel(name, shape, checkpoint, stored, notes, needs_more)


def _found(name: str, keys: RecipeKeys) -> FoundModel:
    """A file that was written on another machine may name a folder there."""
    try:
        return find_model(name, beside=keys.folder)
    except ModelNotFoundError:
        found = None if keys.model else find_by_path(name)
        if found is None:
            raise
        return found


def _stored(name: str, checkpoint: str, section: dict[str, Any]) -> str:
    """How weights of a format are counted; its bits are in the configuration or in the name."""
    if not checkpoint:
        return "none"
    in_eight_bits = section.get("bits") == 8 or section.get("load_in_8bit") is True
    if "bits" not in section:
        in_eight_bits |= _EIGHT_BITS.search(name.rpartition("/")[2].lower()) is not None
    return "int8" if in_eight_bits else STORED[checkpoint]


def stored_quantization(model: RecipeModel, notes: list[str]) -> str:
    """How weights are held that the file does not quantise."""
    if not model.checkpoint:
        return "none"
    notes.append(
        f"{model.name}: the checkpoint is quantised ({model.checkpoint}) and stays so; counted as "
        f"{model.stored}"
    )
    return model.stored


def modules_named(
    keys: RecipeKeys,
    named: object,
    shape: ModelShape,
    notes: list[str],
    experts: ExpertAdapters = NO_EXPERTS,
) -> tuple[str, ...]:
    """Names of the model's linear layers that get an adapter, as peft finds them.

    A list names the ends of module paths; a name that no layer has is passed over, with a note, and
    so is an expression among several names. A text that is no list of names is a regular expression
    for whole paths (peft `tuners/tuners_utils.py`, `check_target_module_exists`).

    Args:
        experts: what the tool's peft makes of names of experts, which are left out. If nothing
            else is named, an adapter on one layer of each block is counted.

    Raises:
        InputError: neither names nor a pattern, or no layer is found.
    """
    if keys.is_stand_in:
        listed = ", ".join(map(str, named)) if isinstance(named, list) else named
        notes.append(f"{keys.found('lora_target')[0]}: {listed}; its layers depend on the model")
        return shape.every_module
    if named in ("all", "all-linear", ["all"], ["all-linear"]):
        return shape.estimated_modules("all") if experts.names else shape.every_module
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    if isinstance(named, str) and is_expression(named):
        return _matching(keys, named, shape, experts)
    names = named.split(",") if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise keys.refused(
            "lora_target", "is not a list of module names", "write [q_proj, v_proj] or all"
        )
    found: dict[str, None] = {}
    missing = []
    names = [name for name in names if name.strip().rpartition(".")[2] not in experts.names]
    if not names:
        return shape.linear_kinds[:1]
    for name in dict.fromkeys(name.strip() for name in names):
        counted = () if is_expression(name) else _counted_as(name, shape)
        if len(counted) > 1:
            notes.append(
                f"{keys.found('lora_target')[0]}: {name} is counted as {', '.join(counted)}"
            )
        found.update(dict.fromkeys(counted))
        missing += [] if counted else [name]
    if not found:
        remedy = f"it has {', '.join(shape.linear_kinds)}"
        if any(map(is_expression, missing)):
            remedy = "write one expression as a text: peft takes none in a list of several"
        raise keys.refused(
            "lora_target",
            f"names no layer of this model ({shape.model_type}): {shown(missing)}",
            remedy,
        )
    if missing:
        key = keys.found("lora_target")[0]
        notes.append(
            f"{key}: {', '.join(missing)} is not a linear layer of the blocks and is not counted"
        )
    return tuple(found)


def _counted_as(name: str, shape: ModelShape) -> tuple[str, ...]:
    """Returns the layers of a shape that a written name stands for; none if it has none.

    The names of our sets are unknown to every tool.
    """
    if name in LORA_TARGET_SETS:
        return ()
    try:
        return shape.counted_modules(name)
    except ValueError:
        return ()


def _matching(
    keys: RecipeKeys, pattern: str, shape: ModelShape, experts: ExpertAdapters
) -> tuple[str, ...]:
    """Returns the layers that an expression matches in the model as transformers builds it or, for
    a file that was written for an older version, where its layers stood in others."""
    try:
        matches = compiled_expression(pattern).fullmatch
    except re.error as error:
        raise keys.refused("lora_target", f"is not a pattern ({error})", "correct it") from None
    try:
        found = shape.counted_modules(pattern)
        kept = tuple(name for name in found if name.rpartition(".")[2] not in experts.names)
        return kept or shape.linear_kinds[:1]
    except ValueError:
        kinds = [
            kind
            for kind in shape.linear_kinds
            if any(matches(path) for path in _paths(kind, shape.num_hidden_layers))
        ]
    if not kinds and experts.features:
        return shape.linear_kinds[:1]
    if not kinds:
        names = ", ".join(shape.linear_kinds)
        raise keys.refused("lora_target", "matches no layer of this model", f"it has {names}")
    return shape.estimated_modules(",".join(kinds))


def _paths(name: str, layers: int) -> list[str]:
    """Where a layer may stand in the models of transformers, alone or within one of images."""
    block = "mlp" if name in _MLP else "self_attn"
    return [
        f"{root}layers.{number}.{block}.{name}" for root in _ROOTS for number in {0, layers - 1}
    ]
