"""Tells by its keys which tool a training file is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vram_search.tools.llamafactory import LLAMA_FACTORY
from vram_search.tools.training_arguments import KNOWN
from vram_search.tools.trl import TRL

READ = {
    "llamafactory": "LLaMA-Factory",
    "llamafactory v1": "LLaMA-Factory's v1 trainer",
    "axolotl": "Axolotl",
    "trl": "TRL",
    "peft": "this program's export for peft",
    "unsloth": "this program's export for Unsloth",
}
"""Tools whose files are read -> their names in a sentence."""

NOT_READ = {
    "accelerate": "Accelerate (its launch configuration)",
    "adapter": "peft (adapter_config.json)",
    "autotrain": "AutoTrain",
    "deepspeed": "DeepSpeed",
    "h2o": "H2O LLM Studio",
    "litgpt": "LitGPT",
    "mlx": "mlx-lm",
    "model": "a model (config.json)",
    "nemo": "NVIDIA NeMo",
    "ms-swift": "ms-swift",
    "oumi": "Oumi",
    "torchtune": "torchtune",
    "unsloth studio": "Unsloth Studio",
    "training arguments": "transformers' TrainingArguments",
}
"""Tools whose files are recognised only."""

TITLES = READ | NOT_READ

_ONLY_LLAMA_FACTORY = LLAMA_FACTORY.known - TRL.known
_ONLY_TRL = (TRL.known - LLAMA_FACTORY.known) | {"max_seq_length", "torch_dtype", "dataset_mixer"}
_SWIFT = {
    *("train_type", "tuner_type", "sft_type", "quant_method", "quant_bits", "model_author"),
    *("target_modules", "max_length", "split_dataset_ratio"),
}
_AUTOTRAIN = {"project_name", "data_path", "text_column", "block_size", "merge_adapter"}
_STUDIO = {"training_type", "max_seq_length"}
_LLAMA_FACTORY_V1 = {"peft_config", "dist_config", "kernel_config", "quant_config", "train_dataset"}
_BY_KEYS: dict[str, frozenset[str]] = {
    "accelerate": frozenset({"compute_environment", "distributed_type"}),
    "adapter": frozenset({"peft_type", "target_modules"}),
    "deepspeed": frozenset({"zero_optimization"}),
    "h2o": frozenset({"llm_backbone", "architecture"}),
    "litgpt": frozenset({"checkpoint_dir", "out_dir"}),
    "mlx": frozenset({"model", "lora_parameters"}),
    "model": frozenset({"model_type", "architectures"}),
    "nemo": frozenset({"trainer", "model", "exp_manager"}),
}
"""Tool -> keys that make a file its own if all of them are there."""
_FEW = 3
"""So many keys of TrainingArguments make a file theirs."""


def tool_of(values: Mapping[Any, Any]) -> str | None:
    """A key of TITLES; None for a file of something else."""
    if values.get("loader") in ("peft", "unsloth") and isinstance(values.get("training"), Mapping):
        return str(values["loader"])
    if any(isinstance(part, Mapping) and "_component_" in part for part in values.values()):
        return "torchtune"
    names = {key for key in values if values[key] is not None}
    if {"base_model", "model_name_or_path"} <= names:
        return None
    for tool, keys in _BY_KEYS.items():
        if keys <= names:
            return tool
    if "base_model" in names:
        is_autotrain = isinstance(values.get("params"), Mapping) and "task" in names
        return "autotrain" if is_autotrain else "axolotl"
    if "model_name_or_path" in names:
        theirs = len(names & _ONLY_TRL)
        return "trl" if theirs > len(names & _ONLY_LLAMA_FACTORY) else "llamafactory"
    model = values.get("model")
    if isinstance(model, Mapping) and "model_name" in model:
        return "oumi"
    training = values.get("training")
    if isinstance(training, Mapping) and "study" not in names and _STUDIO & set(training):
        return "unsloth studio"
    if isinstance(model, str):
        if len(names & _AUTOTRAIN) > 1:
            return "autotrain"
        if names & _LLAMA_FACTORY_V1:
            return "llamafactory v1"
        if names & _SWIFT:
            return "ms-swift"
    if {"model_type", "model_id_or_path"} & names and {"sft_type", "train_type"} & names:
        return "ms-swift"
    return "training arguments" if len(names & KNOWN) >= _FEW and "model" not in names else None


def purpose_of(tool: str, values: Mapping[Any, Any]) -> str:
    """The act of a LLaMA-Factory file that does not train, as words after "this file"; empty
    for a training."""
    if tool != "llamafactory" or values.get("do_train") is True:
        return ""
    if values.get("export_dir"):
        return "merges or exports a model"
    if values.get("do_predict") is True:
        return "predicts"
    is_chat = not {"stage", "dataset", "do_train"} & set(values)
    if is_chat and {"infer_backend", "infer_dtype"} & set(values):
        return "chats with a model"
    return "evaluates a model" if "task" in values and "lang" in values else ""
