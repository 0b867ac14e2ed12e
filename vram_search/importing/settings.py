"""Reads a run's settings: the YAML of LLaMA-Factory or Axolotl, peft's `adapter_config.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vram_search.importing.fields import MAX_COUNT, RunFields
from vram_search.importing.kind import TrainingKind, read_adapter_kind, read_stage
from vram_search.models.names import shipped_name
from vram_search.resources import shipped
from vram_search.spec.further_dimensions import SCHEDULE_POSITIONS
from vram_search.spec.hyperparameters import BY_NAME, DIMENSIONS, Dimension
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.shape import ModelShape, load_shape
from vram_search.tools import AXOLOTL, LLAMA_FACTORY, PEFT, TRL, detect
from vram_search.typed_fields import MAX_TEXT

MAX_SETTING_CHARACTERS = 100
TOOLS = {"llamafactory": LLAMA_FACTORY, "axolotl": AXOLOTL, "trl": TRL}
"""Name of a run's source -> the tool whose YAML is read."""
_MODULE_NAME = re.compile(r"[\w.-]*")
"""Anything else in a text is a pattern."""
_BLOCK_LINEARS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
"""Linear layers of a block in almost every model; they are `all` where the model is unknown."""
_READ_APART = ("lora_target", "batch_size", "seed")
"""Hyperparameters that several keys, or several forms of one key, may hold; and the seed, which
every record holds by itself."""
KEPT_SETTINGS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "quantization_bit",
    "load_in_4bit",
    "load_in_8bit",
    "disable_gradient_checkpointing",
    "gradient_checkpointing",
    "enable_liger_kernel",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "val_size",
    "lora_dropout",
    "neftune_noise_alpha",
    "packing",
    "neat_packing",
    "template",
    "bf16",
    "fp16",
)
"""Names of settings whose plain values are kept under the tool's own keys; a YAML may hold secrets
too."""


@dataclass
class Settings:
    """The known settings of a run; None and absent keys are unknown.

    Attributes:
        trains: False if LLaMA-Factory's YAML asks for a prediction or an evaluation alone.
    """

    model: str | None = None
    seed: int | None = None
    hyperparameters: dict[str, Any] = field(
        default_factory=lambda: {one.name: None for one in DIMENSIONS if not one.is_optional}
    )
    kept: dict[str, Any] = field(default_factory=dict)
    trains: bool | None = None
    kind: TrainingKind = field(default_factory=TrainingKind)

    def shape(self) -> ModelShape | None:
        """The shape of a model that is shipped here, by its hub name."""
        found = shipped_name(self.model) if self.model else None
        return load_shape(shipped("configs", "models", found.slug)) if found else None

    def know(self, name: str, value: Any) -> None:
        """Fills in a hyperparameter that is not known yet. An optional one at its default is left
        out, as in a trial of a search."""
        dimension = BY_NAME[name]
        is_left_out = dimension.is_optional and value in (None, dimension.default)
        if self.hyperparameters.get(name) is None and not is_left_out:
            self.hyperparameters[name] = value


def tool_of(values: Mapping[Any, Any]) -> str | None:
    """A key of TOOLS, or None for the YAML of something else."""
    tool = detect.tool_of(values)
    is_read = tool in TOOLS and isinstance(values.get(TOOLS[tool].key("model_name_or_path")), str)
    return tool if is_read else None


def read_training_yaml(settings: Settings, values: Mapping[Any, Any], place: str) -> None:
    """Adds what a training YAML says. Defaults of the tool are not filled in: they change between
    its versions.

    Raises:
        InputError: a value has the wrong kind; names its key.
    """
    name = tool_of(values) or "llamafactory"
    tool = TOOLS[name]
    fields = RunFields(values, place)
    if name == "llamafactory" and (fields.has("do_predict") or fields.has("do_eval")):
        settings.trains = values.get("do_train") is True
    read_stage(settings.kind, fields, name)
    settings.kind.add_adapter(values)
    for key in map(tool.key, KEPT_SETTINGS):
        value = values.get(key)
        is_text = isinstance(value, str) and len(value) <= MAX_SETTING_CHARACTERS
        is_number = isinstance(value, (bool, int, float)) and abs(value) <= MAX_COUNT
        if is_text or is_number:
            settings.kept[key] = value
    read_settings(settings, fields, tool.names)
    if values.get("lora_target_linear") is True:
        settings.know("lora_target", "all")


def read_settings(
    settings: Settings, fields: RunFields, names: Mapping[str, str] | None = None
) -> None:
    """Adds what fields say; `names` maps our names to theirs where they differ.

    Raises:
        InputError: a value has the wrong kind; names its key.
    """
    theirs = {one.name: one.name for one in DIMENSIONS} | dict(names or {})
    settings.model = fields.label(theirs.get("model_name_or_path", "model_name_or_path"))
    settings.seed = fields.count("seed")
    for dimension in DIMENSIONS:
        if dimension.name not in _READ_APART:
            settings.know(dimension.name, _value(fields, theirs[dimension.name], dimension))
    settings.know("lora_target", lora_target(fields, theirs["lora_target"], settings.shape()))
    micro = theirs.get("per_device_train_batch_size", "per_device_train_batch_size")
    settings.know("batch_size", batch_size(fields, micro))


def _value(fields: RunFields, key: str, dimension: Dimension) -> Any:
    if dimension.name == "init_lora_weights":
        return _initial_weights(fields, key)
    if dimension.name == "packing" and fields.values.get("neat_packing") is True:
        return True  # LLaMA-Factory packs then, even without `packing`
    if dimension.is_setting or dimension.kind == "flag":
        return _setting(fields.found(key)[1], dimension)
    if dimension.kind == "categorical":
        return fields.label(key)
    if dimension.kind == "ordered":
        return fields.count(key, least=1)
    return fields.number_or_none(key)


def _setting(value: Any, dimension: Dimension) -> Any:
    """The value of a setting; None if no search could have it."""
    if dimension.kind == "flag":
        return value is True or str(value).lower() == "true"
    if dimension.kind == "categorical":
        return value if value in SCHEDULE_POSITIONS else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    is_allowed = 0 <= number <= dimension.most and not (dimension.kind == "log" and number == 0)
    return number if is_allowed and not isinstance(value, bool) else None


def _initial_weights(fields: RunFields, key: str) -> str | None:
    """The method by which an adapter starts; None for peft's default and for other methods, which
    the adapter's kind names."""
    start = str(fields.found(key)[1]).lower()
    if start.startswith("pissa") or fields.values.get("pissa_init") is True:
        return "pissa"
    return start if start == "olora" else None


def batch_size(fields: RunFields, micro_batch_key: str) -> int | None:
    """Sequences per optimizer step on one device, where both factors are written."""
    micro = fields.count(micro_batch_key, least=1)
    steps = fields.count("gradient_accumulation_steps", least=1)
    if micro is None or steps is None:
        return None
    if micro * steps > MAX_COUNT:
        raise fields.refused(micro_batch_key, "is out of range", "write the rows of a micro-batch")
    return micro * steps


def read_adapter_config(settings: Settings, values: dict[str, Any], place: str) -> None:
    """Adds what peft's `adapter_config.json` says (peft `tuners/lora/config.py`, LoraConfig).

    Raises:
        InputError: a value has the wrong kind; names its key.
    """
    fields = RunFields(values, place)
    read_adapter_kind(settings.kind, fields)
    settings.model = settings.model or fields.label("base_model_name_or_path")
    for dimension in DIMENSIONS:
        if dimension.group == "adapter" and dimension.name not in _READ_APART:
            settings.know(dimension.name, _value(fields, PEFT.key(dimension.name), dimension))
    settings.know("lora_target", lora_target(fields, "target_modules", settings.shape()))


def lora_target(fields: RunFields, key: str, shape: ModelShape | None) -> str | None:
    """A set's name where the modules are one of LORA_TARGET_SETS, else their names with commas.

    A pattern, as peft allows, is kept as it is. Of more paths than a record holds the last names
    are kept.

    Raises:
        InputError: neither a text nor a list of texts.
    """
    value = fields.found(key)[1]
    if value is None or value == []:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise fields.refused(key, "is not a list of module names", "write [q_proj, v_proj]")
    modules = {name.strip() for name in names}
    if isinstance(value, str) and not all(map(_MODULE_NAME.fullmatch, modules)):
        return fields.label(key)
    if sum(map(len, modules)) > MAX_TEXT:
        modules = {name.rpartition(".")[2] for name in modules}
    if sum(map(len, modules)) > MAX_TEXT:
        raise fields.refused(key, "is too long", f"at most {MAX_TEXT} characters are kept")
    if modules & {"all", "all-linear"}:
        return "all"
    if modules == (_BLOCK_LINEARS if shape is None else set(shape.linear_kinds)):
        return "all"
    for name, members in LORA_TARGET_SETS.items():
        if modules in (set(members), {name}):
            return name
    return ",".join(sorted(modules))
