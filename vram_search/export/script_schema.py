"""The schema of an exported YAML for `train_trial.py`; stricter than the functions it is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from vram_search.errors import Fault
from vram_search.export.fields import (
    Dropout,
    NonReentrant,
    Seed,
    Text,
    schema_faults,
    target_faults,
)
from vram_search.export.training_keys import TrainingKeys
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.point import CutoffLen, LoraPlusRatio, Rank


class _Quantization(Spec):
    load_in_4bit: Literal[True]
    bnb_4bit_quant_type: Literal["nf4", "fp4"]
    bnb_4bit_use_double_quant: Flag
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16"]


class _Rows(Spec):
    train: Literal["train.json"]
    eval: Literal["eval.json"]
    tokenizer: Text
    date: Text | None = None
    cutoff_len: CutoffLen
    eval_cutoff_len: CutoffLen
    packing: Literal[True] | None = None


class _Lora(Spec):
    r: Rank
    lora_alpha: Count
    lora_dropout: Dropout
    use_rslora: Flag = False
    use_dora: Flag = False
    target_modules: Literal["all-linear"] | tuple[Text, ...]
    bias: Literal["none"]


class _PeftLora(_Lora):
    init_lora_weights: Literal["olora"] | None = None
    task_type: Literal["CAUSAL_LM"]


class _UnslothLora(_Lora):
    use_gradient_checkpointing: Flag
    random_state: Seed


class _PeftTraining(TrainingKeys):
    gradient_checkpointing: Flag
    gradient_checkpointing_kwargs: NonReentrant
    use_liger_kernel: Flag


class _PeftModel(Spec):
    pretrained_model_name_or_path: Text
    dtype: Literal["bfloat16", "float16"]
    attn_implementation: Literal["sdpa"]


class _UnslothModel(Spec):
    model_name: Text
    max_seq_length: CutoffLen
    dtype: Literal["bfloat16", "float16"]
    load_in_4bit: Literal[True]
    use_exact_model_name: Literal[True]
    use_gradient_checkpointing: Flag
    random_state: Seed


class _Optimizer(Spec):
    loraplus_lr_ratio: LoraPlusRatio


class PeftConfig(Spec):
    """Arguments of transformers' and peft's classes, as `train_trial.py` passes them."""

    loader: Literal["peft"]
    auto_class: Literal["AutoModelForImageTextToText", "AutoModelForMultimodalLM"] | None = None
    """The class that loads a model of several parts; others are causal language models."""
    model: _PeftModel
    quantization: _Quantization
    lora: _PeftLora
    rows: _Rows
    optimizer: _Optimizer | None = None
    training: _PeftTraining


class UnslothConfig(Spec):
    """Arguments of Unsloth's functions, as `train_trial.py` passes them."""

    loader: Literal["unsloth"]
    model: _UnslothModel
    lora: _UnslothLora
    rows: _Rows
    optimizer: _Optimizer | None = None
    training: TrainingKeys


def check_script(
    schema: type[Spec], config: Mapping[str, Any], modules: Collection[str]
) -> list[Fault]:
    """Returns all faults of a configuration, given the model's linear layers."""
    faults = schema_faults(schema, config)
    lora = config.get("lora")
    names = lora.get("target_modules") if isinstance(lora, dict) else None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        faults += target_faults("lora.target_modules", names, modules)
    return faults
