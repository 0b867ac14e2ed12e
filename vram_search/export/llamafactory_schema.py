"""The schema of an exported YAML for LLaMA-Factory.

It is stricter than LLaMA-Factory, which accepts a rank of -8, a batch of 0 and LoRA targets that no
model has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from vram_search.errors import Fault
from vram_search.export.fields import (
    LORA_MODULES,
    Dropout,
    Text,
    schema_faults,
    target_faults,
)
from vram_search.export.template_names import TEMPLATE_NAMES
from vram_search.export.training_keys import TrainingKeys
from vram_search.spec.base import Count, Flag
from vram_search.spec.point import CutoffLen, LoraPlusRatio, Rank


def _known_template(value: object) -> object:
    if not isinstance(value, str) or value not in TEMPLATE_NAMES:
        raise ValueError("LLaMA-Factory 0.9.5 has no such template")
    return value


class LlamaFactoryConfig(TrainingKeys):
    """Keys of LLaMA-Factory 0.9.5 that an export uses, and the values that make sense."""

    model_name_or_path: Text
    trust_remote_code: Literal[False] = False
    quantization_method: Literal["bnb"]
    quantization_bit: Literal[4]
    quantization_type: Literal["nf4", "fp4"]
    double_quantization: Flag
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"]
    enable_liger_kernel: Flag
    disable_gradient_checkpointing: Flag
    use_reentrant_gc: Flag

    stage: Literal["sft"]
    do_train: Literal[True]
    finetuning_type: Literal["lora"]
    lora_target: Text
    freeze_vision_tower: Literal[True] = True
    freeze_multi_modal_projector: Literal[True] = True
    lora_rank: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    use_rslora: Flag = False
    use_dora: Flag = False
    loraplus_lr_ratio: LoraPlusRatio = 1.0

    dataset_dir: Text
    dataset: Text
    eval_dataset: Text
    template: Annotated[str, BeforeValidator(_known_template)]
    default_system: str | None = None
    cutoff_len: CutoffLen
    packing: Flag
    neat_packing: Literal[True] | None = None
    train_on_prompt: Literal[False]
    overwrite_cache: Flag = False

    overwrite_output_dir: Flag

    @model_validator(mode="after")
    def _data_sets_differ(self) -> LlamaFactoryConfig:
        if self.dataset == self.eval_dataset:
            raise ValueError(
                "dataset and eval_dataset are the same: the model would be trained on its "
                "evaluation rows"
            )
        if self.packing != bool(self.neat_packing):
            raise ValueError(
                "packing and neat_packing go together: without neat_packing joined rows see each "
                "other"
            )
        return self


def check_llamafactory(
    config: Mapping[str, Any], modules: Collection[str] = LORA_MODULES
) -> list[Fault]:
    """Returns all faults of a configuration; the list is empty if it can be written and run.

    Args:
        config: the YAML's keys and values.
        modules: names of the model's linear layers.
    """
    faults = schema_faults(LlamaFactoryConfig, config)
    target = config.get("lora_target")
    if isinstance(target, str) and target and target != "all":
        faults += target_faults("lora_target", target.split(","), modules)
    faults += [
        Fault(key, "holds '${', which LLaMA-Factory's loader (OmegaConf) would replace", value)
        for key, value in config.items()
        if isinstance(value, str) and "${" in value
    ]
    return faults
