"""The schema of an exported YAML for TRL."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import model_validator

from vram_search.errors import Fault
from vram_search.export.fields import Dropout, NonReentrant, Text, schema_faults, target_faults
from vram_search.export.training_keys import TrainingKeys
from vram_search.spec.base import Count, Flag
from vram_search.spec.point import CutoffLen, Rank


class TrlConfig(TrainingKeys):
    """Keys of `trl sft` that an export uses; TRL accepts a rank of -8 and a batch of 0."""

    model_name_or_path: Text
    dtype: Literal["bfloat16", "float16"]
    attn_implementation: Literal["sdpa"]
    load_in_4bit: Literal[True]
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    use_bnb_nested_quant: Flag
    use_liger_kernel: Flag
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant

    use_peft: Literal[True]
    lora_target_modules: tuple[Text, ...]
    lora_r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    use_rslora: Flag = False
    use_dora: Flag = False
    lora_task_type: Literal["CAUSAL_LM"]

    dataset_name: Literal["./trl-rows"]
    dataset_train_split: Literal["train"]
    dataset_test_split: Literal["test"]
    max_length: CutoffLen
    truncation_mode: Literal["keep_start"]
    packing: Flag
    packing_strategy: Literal["bfd"] | None = None
    eval_packing: Literal[False] | None = None
    completion_only_loss: Flag
    assistant_only_loss: Flag

    @model_validator(mode="after")
    def _trl_keys_agree(self) -> TrlConfig:
        if self.bf16 != (self.dtype == "bfloat16"):
            raise ValueError("dtype and bf16 disagree: the model would be cast at every step")
        if self.packing != (self.packing_strategy == "bfd" and self.eval_packing is False):
            raise ValueError("packing, packing_strategy: bfd and eval_packing: false go together")
        if self.completion_only_loss == self.assistant_only_loss:
            raise ValueError("one of completion_only_loss and assistant_only_loss is expected")
        return self


def check_trl(config: Mapping[str, Any], modules: Collection[str]) -> list[Fault]:
    """Returns all faults of a configuration, given the model's linear layers."""
    faults = schema_faults(TrlConfig, config)
    names = config.get("lora_target_modules")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return faults
    if len(names) == 1 and not re.fullmatch(r"all-linear|\.\*\\\.\w+", names[0]):
        faults.append(Fault("lora_target_modules", "one name alone matches no layer", names[0]))
    elif names != ["all-linear"]:
        faults += target_faults("lora_target_modules", read_modules(names), modules)
    return faults


def read_modules(written: Sequence[str]) -> list[str]:
    """Returns module names, or `all`, from the texts that an export writes for them."""
    if list(written) == ["all-linear"]:
        return ["all"]
    if len(written) == 1:
        return [written[0].removeprefix(".*\\.")]
    return list(written)
