"""What an exported LLaMA-Factory file may hold.

Stricter than LLaMA-Factory, which accepts a rank of -8, a batch of 0 and LoRA targets that no model
has.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from vram_search.errors import Fault
from vram_search.export.template_names import TEMPLATE_NAMES
from vram_search.spec.base import Count, Flag, PositiveFloat, Spec
from vram_search.spec.hyperparameters import CutoffLen, LearningRate, Rank
from vram_search.spec.optimizers import OPTIMIZERS

LORA_MODULES = frozenset(
    [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "qkv_proj",
        "gate_up_proj",
    ]
)
"""Linear layers of the families that are modelled (`spec.shape`)."""


def _known_optim(value: object) -> object:
    if not isinstance(value, str) or value not in OPTIMIZERS:
        raise ValueError(f"not an optimizer that is searched here: {', '.join(OPTIMIZERS)}")
    return value


def _known_template(value: object) -> object:
    if not isinstance(value, str) or value not in TEMPLATE_NAMES:
        raise ValueError("LLaMA-Factory 0.9.5 has no such template")
    return value


def _not_bool(value: object) -> object:
    if isinstance(value, (bool, str)):
        raise ValueError("a number is expected")
    return value


Text = Annotated[str, Field(strict=True, min_length=1, pattern=r"^[^\x00]*$")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Share = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=1)]


class LlamaFactoryConfig(Spec):
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
    lora_rank: Rank
    lora_alpha: Count
    lora_dropout: Annotated[float, BeforeValidator(_not_bool), Field(ge=0, lt=1)]

    dataset_dir: Text
    dataset: Text
    eval_dataset: Text
    template: Annotated[str, BeforeValidator(_known_template)]
    default_system: str | None = None
    cutoff_len: CutoffLen
    packing: Literal[False]
    train_on_prompt: Literal[False]
    overwrite_cache: Flag = False

    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    learning_rate: Annotated[LearningRate, BeforeValidator(_not_bool)]
    max_steps: Count
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    warmup_steps: Annotated[int, Field(strict=True, ge=0)]
    weight_decay: Share
    max_grad_norm: Annotated[PositiveFloat, BeforeValidator(_not_bool)]
    optim: Annotated[str, BeforeValidator(_known_optim)]
    bf16: Flag = False
    fp16: Flag = False
    seed: Seed
    data_seed: Seed

    per_device_eval_batch_size: Count
    eval_strategy: Literal["steps"]
    eval_steps: Count
    load_best_model_at_end: Flag
    metric_for_best_model: Literal["eval_loss"]
    greater_is_better: Literal[False]

    output_dir: Text
    overwrite_output_dir: Flag
    save_strategy: Literal["steps"]
    save_steps: Count
    save_total_limit: Count
    logging_steps: Count
    report_to: Literal["none"]

    @field_validator("output_dir")
    @classmethod
    def _own_folder(cls, value: str) -> str:
        path = PurePosixPath(value.replace("\\", "/"))
        if path.name in ("", "..", "saves", "output", "outputs"):
            raise ValueError(
                "needs a folder of its own: LLaMA-Factory silently resumes what lies there"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> LlamaFactoryConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other")
        if self.dataset == self.eval_dataset:
            raise ValueError("dataset and eval_dataset are the same: the exam would be learnt")
        if self.warmup_steps > self.max_steps:
            raise ValueError("warmup_steps is above max_steps")
        if self.eval_steps > self.max_steps:
            raise ValueError("eval_steps is above max_steps: nothing would be evaluated")
        if self.load_best_model_at_end and self.save_steps % self.eval_steps:
            raise ValueError("load_best_model_at_end needs save_steps as a multiple of eval_steps")
        return self


def check_llamafactory(
    config: dict[str, Any], *, modules: Collection[str] = LORA_MODULES
) -> list[Fault]:
    """Everything wrong in a configuration; empty where it can be written and run.

    Args:
        config: the YAML's keys and values.
        modules: names of the model's linear layers.
    """
    faults: list[Fault] = []
    try:
        LlamaFactoryConfig.model_validate(config)
    except ValidationError as error:
        faults += [_fault(details) for details in error.errors()]
    faults += _target_faults(config.get("lora_target"), modules)
    faults += [
        Fault(key, "holds '${', which LLaMA-Factory's loader (OmegaConf) would replace", value)
        for key, value in config.items()
        if isinstance(value, str) and "${" in value
    ]
    return faults


def _fault(details: ErrorDetails) -> Fault:
    path = ".".join(str(part) for part in details["loc"]) or "(the file)"
    kind = details["type"]
    if kind == "extra_forbidden":
        return Fault(path, "is not a key that an export uses")
    if kind == "missing":
        return Fault(path, "is missing")
    value = None if isinstance(details["input"], dict) else details["input"]
    return Fault(path, details["msg"].removeprefix("Value error, "), value)


def _target_faults(target: object, modules: Collection[str]) -> list[Fault]:
    if not isinstance(target, str) or not target:
        return []
    names = target.split(",")
    if names == ["all"]:
        return []
    allowed = f"all, or of {', '.join(sorted(modules))}"
    faults = [
        Fault("lora_target", "the model has no such module", name, allowed)
        for name in names
        if name not in modules
    ]
    if len(set(names)) != len(names):
        faults.append(Fault("lora_target", "a module is named twice", target))
    return faults
