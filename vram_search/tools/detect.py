"""Tells by its keys which tool a training file is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vram_search.tools.axolotl import AXOLOTL
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
    "compose": "Docker Compose",
    "deepspeed": "DeepSpeed",
    "fsdp": "FSDP settings (for transformers or Accelerate)",
    "h2o": "H2O LLM Studio",
    "litgpt": "LitGPT",
    "kubernetes": "Kubernetes",
    "ludwig": "Ludwig",
    "mergekit": "mergekit (it merges models)",
    "mlx": "mlx-lm",
    "model": "a model (config.json)",
    "nemo": "NVIDIA NeMo",
    "ms-swift": "ms-swift",
    "openrlhf": "OpenRLHF",
    "oumi": "Oumi",
    "skypilot": "SkyPilot",
    "torchtitan": "torchtitan",
    "torchtune": "torchtune",
    "unsloth program": "Unsloth",
    "unsloth studio": "Unsloth Studio",
    "training arguments": "transformers' TrainingArguments",
    "verl": "verl",
    "xtuner": "XTuner",
}
"""Tools whose files, scripts or programs are recognised only."""

TITLES = READ | NOT_READ

_ONLY_LLAMA_FACTORY = LLAMA_FACTORY.known - TRL.known
_ONLY_TRL = (TRL.known - LLAMA_FACTORY.known) | {"max_seq_length", "torch_dtype", "dataset_mixer"}
_OF_EITHER = LLAMA_FACTORY.known | TRL.known | {*LLAMA_FACTORY.successors, *TRL.successors}
_SWIFT = {
    *("train_type", "tuner_type", "sft_type", "quant_method", "quant_bits", "model_author"),
    *("target_modules", "max_length", "split_dataset_ratio"),
}
_AUTOTRAIN = {"project_name", "data_path", "text_column", "block_size", "merge_adapter"}
_STUDIO = {"training_type", "max_seq_length"}
_LLAMA_FACTORY_V1 = {"peft_config", "dist_config", "kernel_config", "quant_config", "train_dataset"}
_BY_KEYS: tuple[tuple[str, str], ...] = (
    ("accelerate", "compute_environment distributed_type"),
    ("accelerate", "distributed_type mixed_precision"),
    ("accelerate", "distributed_type num_processes"),
    ("adapter", "peft_type target_modules"),
    ("compose", "services"),
    ("deepspeed", "zero_optimization"),
    ("deepspeed", "train_micro_batch_size_per_gpu"),
    ("h2o", "llm_backbone architecture"),
    ("litgpt", "checkpoint_dir out_dir"),
    ("litgpt", "train.micro_batch_size data"),
    ("litgpt", "train.global_batch_size out_dir"),
    ("kubernetes", "apiVersion kind"),
    ("ludwig", "input_features output_features"),
    ("mergekit", "merge_method models"),
    ("mergekit", "merge_method slices"),
    ("mlx", "model lora_parameters"),
    ("mlx", "model iters"),
    ("model", "model_type architectures"),
    ("nemo", "trainer model exp_manager"),
    ("nemo", "model step_scheduler"),
    ("nemo", "policy.model_name cluster"),
    ("openrlhf", "pretrain micro_train_batch_size"),
    ("oumi", "model.model_name"),
    ("training arguments", "model_name_or_path train_file"),
    ("skypilot", "resources run"),
    ("torchtitan", "job.dump_folder"),
    ("torchtitan", "model.flavor training"),
    ("verl", "actor_rollout_ref"),
    ("verl", "model.partial_pretrain"),
    ("verl", "data.train_files trainer"),
    ("xtuner", "model_cfg lr_cfg"),
)
"""Tool, and keys that make a file its own if all of them are there; "a.b" is the key b in a."""
_OF_FSDP = {
    *("fsdp_transformer_layer_cls_to_wrap", "transformer_layer_cls_to_wrap"),
    *("fsdp_sharding_strategy", "fsdp_version", "fsdp_auto_wrap_policy", "fsdp_config"),
}
_WITHOUT_MODEL = {
    "llamafactory": {
        *("cutoff_len", "dataset_dir", "finetuning_type", "lora_rank", "lora_target"),
        *("overwrite_cache", "preprocessing_num_workers", "quantization_bit", "stage", "template"),
    },
    "axolotl": {
        *("adapter", "lora_target_linear", "micro_batch_size", "pad_to_sequence_len"),
        *("sample_packing", "sequence_len", "val_set_size"),
    },
}
"""Tool -> keys of which a few make a file its own that names no model: the command does."""
_FEW = 3
"""So many keys of TrainingArguments, or of one row above, make a file theirs."""


def tool_of(values: Mapping[Any, Any]) -> str | None:
    """A key of TITLES; None for a file of something else."""
    if values.get("loader") in ("peft", "unsloth") and isinstance(values.get("training"), Mapping):
        return str(values["loader"])
    if any(isinstance(part, Mapping) and "_component_" in part for part in values.values()):
        return "torchtune"
    names = {key for key in values if values[key] is not None}
    if {"base_model", "model_name_or_path"} <= names:
        return None
    paths = names | {f"{key}.{inner}" for key in names for inner in _keys_in(values[key])}
    for tool, keys in _BY_KEYS:
        if paths.issuperset(keys.split()):
            return tool
    if "base_model" in names:
        if isinstance(values.get("params"), Mapping) and "task" in names:
            return "autotrain"
        own = names & AXOLOTL.known
        return "axolotl" if 2 * len(own) > len(names) else None
    if "model_name_or_path" in names:
        return _by_own_keys(names)
    model = values.get("model")
    training = values.get("training")
    is_text = not isinstance(model, Mapping) and "study" not in names
    if isinstance(training, Mapping) and is_text and _STUDIO & set(training):
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
    if "model" in names:
        return None
    for tool, signs in _WITHOUT_MODEL.items():
        if len(names & signs) >= _FEW:
            return tool
    if len(names & KNOWN) >= _FEW:
        return "training arguments"
    return "fsdp" if names & _OF_FSDP else None


def _by_own_keys(names: set[Any]) -> str | None:
    """The tool of a file with `model_name_or_path`: LLaMA-Factory's, TRL's, or a program's own
    arguments, where more keys are known to neither than to one of the two. A file of LLaMA-Factory
    may hold Megatron's keys."""
    trl, llama_factory = len(names & _ONLY_TRL), len(names & _ONLY_LLAMA_FACTORY)
    foreign = sum(str(name).lower() not in _OF_EITHER for name in names)
    has_signs = len(names & _WITHOUT_MODEL["llamafactory"]) >= _FEW
    if foreign > max(trl, llama_factory) and len(names & KNOWN) >= _FEW and not has_signs:
        return "training arguments"
    return "trl" if trl > llama_factory else "llamafactory"


def _keys_in(value: Any) -> list[Any]:
    """The keys of a mapping that have a value."""
    is_mapping = isinstance(value, Mapping)
    return [key for key in value if value[key] is not None] if is_mapping else []


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
