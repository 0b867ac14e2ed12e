"""The kind of a training: its stage, its finetuning type, and how its adapter differs from LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vram_search.importing.fields import RunFields
from vram_search.tools.trl import PREFERENCES
from vram_search.typed_fields import MAX_TEXT

PREFERENCE = "preference"
"""Stage of a run whose logs hold rewards, if nothing says which preference training it was."""
_LORA = ("lora", "qlora")
_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
"""peft's task types that train no language model (peft `utils/peft_types.py`, TaskType)."""
_ALSO_IN_SFT = {"disable_dropout", "label_smoothing", "ld_alpha"}
_ADAPTER_KEYS = (
    "use_dora",
    "use_rslora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "init_lora_weights",
    "lora_bias",
    "bias",
    "loraplus_lr_ratio",
)
"""Settings by which an adapter differs from plain LoRA, as peft spells them."""
_PLAIN = {"bias": "none", "init_lora_weights": True}
"""Values of plain LoRA; for other keys, nothing."""
_OTHER_SPELLINGS = {
    "additional_target": "modules_to_save",  # LLaMA-Factory
    "lora_modules_to_save": "modules_to_save",  # Axolotl and TRL
    "lora_alpha_pattern": "alpha_pattern",  # Axolotl, and the keys below
    "lora_rank_pattern": "rank_pattern",
    "lora_target_parameters": "target_parameters",
    "peft_init_lora_weights": "init_lora_weights",
    "peft_layers_pattern": "layers_pattern",
    "peft_layers_to_transform": "layers_to_transform",
    "lora_layers_to_transform": "layers_to_transform",
    "peft_layer_replication": "layer_replication",
    "peft_trainable_token_indices": "trainable_token_indices",
    "peft_use_dora": "use_dora",
    "peft_use_rslora": "use_rslora",
}


@dataclass
class TrainingKind:
    """The known facts about a training's kind; None means unknown.

    Attributes:
        stage: sft, dpo, kto, rm, ppo, pt, orpo, preference, ...
        finetuning_type: lora, full, freeze, or another adapter's name.
        adapter: settings by which the adapter differs from plain LoRA, under peft's names.
    """

    stage: str | None = None
    finetuning_type: str | None = None
    adapter: dict[str, Any] = field(default_factory=dict)

    @property
    def other_training(self) -> str | None:
        """ "dpo", "sft, full"; None for supervised LoRA training, and if nothing is known."""
        is_lora = self.finetuning_type in (None, *_LORA)
        if self.stage in (None, "sft") and is_lora:
            return None
        return ", ".join(filter(None, (self.stage, None if is_lora else self.finetuning_type)))

    def know_stage(self, stage: str | None) -> None:
        """Fills in a stage that is not known yet."""
        self.stage = self.stage or stage

    def know_finetuning_type(self, finetuning_type: str | None) -> None:
        """Fills in a finetuning type that is not known yet."""
        self.finetuning_type = self.finetuning_type or finetuning_type

    def add_adapter(self, values: Mapping[Any, Any]) -> None:
        """Adds the settings of an adapter that are not plain LoRA, under any tool's names."""
        named = {_OTHER_SPELLINGS.get(key, key): value for key, value in values.items()}
        if values.get("pissa_init") is True:
            named["init_lora_weights"] = "pissa"
        for key in _ADAPTER_KEYS:
            value = named.get(key)
            if value and value != _PLAIN.get(key):
                self.adapter.setdefault(key, _short(value))


def read_stage(kind: TrainingKind, fields: RunFields, tool: str) -> None:
    """Adds the stage and the finetuning type that a training YAML states.

    A preference training of TRL is told by its keys; `trl sft` and `trl dpo` share a file's form.

    Raises:
        InputError: one of them is no text.
    """
    if tool == "llamafactory":
        kind.know_stage(_word(fields, "stage"))
        kind.know_finetuning_type(_word(fields, "finetuning_type"))
    elif tool == "axolotl":
        _read_axolotl(kind, fields)
    elif tool == "trl":
        keys = {key for key in fields.values if fields.has(key)}
        if keys & (PREFERENCES - _ALSO_IN_SFT):
            kind.know_stage(PREFERENCE)
        kind.know_finetuning_type("lora" if fields.values.get("use_peft") else "full")


def _read_axolotl(kind: TrainingKind, fields: RunFields) -> None:
    kind.know_stage(_word(fields, "rl"))
    for key, stage in {"reward_model": "rm", "process_reward_model": "prm"}.items():
        if fields.values.get(key) is True:
            kind.know_stage(stage)
    if fields.has("pretraining_dataset"):
        kind.know_stage("pt")
    adapter = _word(fields, "adapter")
    kind.know_finetuning_type("lora" if adapter in _LORA else adapter)
    kind.know_finetuning_type("freeze" if fields.has("unfrozen_parameters") else "full")


def read_adapter_kind(kind: TrainingKind, fields: RunFields) -> None:
    """Adds the kind that peft's `adapter_config.json` states.

    Raises:
        InputError: type or task is no text.
    """
    peft_type = fields.label("peft_type")
    kind.know_finetuning_type((peft_type or "LORA").lower())
    task = fields.label("task_type")
    if task in _HEADS:
        kind.know_stage(task.lower())
    kind.add_adapter(fields.values)


def _word(fields: RunFields, key: str) -> str | None:
    value = fields.label(key)
    return value and value.lower()


def _short(value: Any) -> Any:
    """The value, or its size if it is too long for a record."""
    if isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.split(",")]
    text = json.dumps(value, default=str)
    if len(text) <= MAX_TEXT:
        return json.loads(text)
    return f"{len(value)} entries" if isinstance(value, list | dict) else text[:MAX_TEXT]
