"""What a training YAML of LLaMA-Factory or Axolotl means in bytes: the file as a `Workload`."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from vram_search.errors import InputError
from vram_search.estimate.workload import Workload
from vram_search.resources import shipped
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.shape import ModelShape, load_shape, shape_names, shipped_shape_for

MAX_SIZE = 2**31
"""Above this a count is a slip of the hand: no card holds so many tokens, rows or ranks."""

OPTIMIZER_ALIASES = {"adamw_bnb_8bit": "adamw_8bit"}
"""Second names of transformers' `OptimizerNames` for the same optimizer."""

LLAMAFACTORY_UNMODELLED = {
    "additional_target": "these modules are trained whole",
    "auto_find_batch_size": "the micro-batch may shrink while it runs",
    "compute_accuracy": "evaluation keeps predictions",
    "deepspeed": "states may be shared out or offloaded",
    "fp8": "layers compute in 8 bits",
    "freeze_extra_modules": "these modules are trained whole",
    "fsdp": "states are shared out over cards",
    "fsdp_config": "states are shared out over cards",
    "lora_dropout": "dropout keeps masks and a copy of the inputs",
    "mixture_of_depths": "layers are replaced",
    "modules_to_save": "these modules are trained whole",
    "neftune_noise_alpha": "noise is added to the embeddings",
    "predict_with_generate": "evaluation generates with a cache",
    "pure_bf16": "the adapter and its states become bf16",
    "ref_model": "a second model is loaded",
    "resize_vocab": "the embeddings may grow",
    "reward_model": "a second model is loaded",
    "shift_attn": "attention is replaced",
    "torch_compile": "the compiler keeps other activations",
    "upcast_layernorm": "norms alone become fp32",
    "upcast_lmhead_output": "the logits become fp32",
    "use_adam_mini": "the optimizer is replaced",
    "use_apollo": "the optimizer is replaced",
    "use_badam": "the optimizer is replaced",
    "use_dora": "magnitudes and norms of whole weights are added",
    "use_galore": "the optimizer is replaced",
    "use_llama_pro": "layers are added",
    "use_muon": "the optimizer is replaced",
    "use_unsloth": "kernels and checkpoints are replaced",
    "use_unsloth_gc": "checkpoints are offloaded",
}
"""LLaMA-Factory 0.9.5's keys that change bytes in a way no term of the estimate holds."""

AXOLOTL_UNMODELLED = {
    "activation_offloading": "checkpoints are offloaded",
    "auto_find_batch_size": "the micro-batch may shrink while it runs",
    "batch_size": "it may set the accumulation",
    "bnb_config_kwargs": "the quantisation may be another",
    "chunked_cross_entropy": "the loss is replaced",
    "cut_cross_entropy": "the loss is replaced",
    "deepspeed": "states may be shared out or offloaded",
    "embeddings_skip_upcast": "the embeddings stay bf16",
    "flex_attention": "attention is replaced",
    "fsdp": "states are shared out over cards",
    "fsdp_config": "states are shared out over cards",
    "liger_cross_entropy": "the loss is replaced",
    "lora_dropout": "dropout keeps masks and a copy of the inputs",
    "lora_layers_to_transform": "only some layers get an adapter",
    "lora_mlp_kernel": "other activations are kept",
    "lora_modules_to_save": "these modules are trained whole",
    "lora_o_kernel": "other activations are kept",
    "lora_qkv_kernel": "other activations are kept",
    "lora_target_parameters": "parameters outside the linear layers get an adapter",
    "modules_to_save": "these modules are trained whole",
    "neftune_noise_alpha": "noise is added to the embeddings",
    "optim_target_modules": "the optimizer is replaced (GaLore)",
    "peft": "peft's own settings (LoftQ)",
    "peft_use_dora": "magnitudes and norms of whole weights are added",
    "qat": "weights are quantised while they train",
    "relora": "adapters are merged while it runs",
    "resize_token_embeddings_to_32x": "the embeddings may grow",
    "rl": "preference training runs more texts or models",
    "s2_attention": "attention is replaced",
    "torch_compile": "the compiler keeps other activations",
    "unfrozen_parameters": "these parameters are trained whole",
    "unsloth_cross_entropy_loss": "the loss is replaced",
    "unsloth_lora_mlp": "kernels are replaced",
    "unsloth_lora_o": "kernels are replaced",
    "unsloth_lora_qkv": "kernels are replaced",
    "unsloth_rms_norm": "kernels are replaced",
    "unsloth_rope": "kernels are replaced",
    "use_dora": "magnitudes and norms of whole weights are added",
    "xformers_attention": "attention is replaced",
}
"""Axolotl's keys that change bytes in a way no term of the estimate holds."""


@dataclass(frozen=True)
class Recipe:
    """A training as its file describes it."""

    workload: Workload
    model: str
    """As the file names it: a folder or a hub name."""
    source: Literal["llamafactory", "axolotl"]
    notes: list[str]
    """What changes the bytes and is not modelled; each begins with its key."""


def load_recipe(path: Path) -> Recipe:
    """Reads a training YAML: LLaMA-Factory's has `model_name_or_path`, Axolotl's `base_model`.

    A key that is absent or null has its tool's default. LLaMA-Factory 0.9.5: `hparams/*_args.py`;
    Axolotl: `utils/schemas/*.py`. A model is read from its folder, relative to the working folder
    or to the file; a hub name means the shape shipped here.

    Raises:
        InputError: no such file, not the YAML of either tool, a value that cannot be used, a
            method other than LoRA, or a model whose shape is not known.
    """
    keys = _Keys(path, _load_mapping(path))
    has_llamafactory = keys.has("model_name_or_path")
    has_axolotl = keys.has("base_model")
    if has_llamafactory and has_axolotl:
        raise keys.refused(
            "base_model", "stands beside model_name_or_path", "keep the key of the tool that trains"
        )
    if has_llamafactory:
        return _llamafactory(keys)
    if has_axolotl:
        return _axolotl(keys)
    raise InputError(
        f"{path}: the YAML of neither LLaMA-Factory nor Axolotl",
        "model_name_or_path (LLaMA-Factory) or base_model (Axolotl) is expected",
    )


def _llamafactory(keys: _Keys) -> Recipe:
    """Source keys: quantization_bit, quantization_method, quantization_type, double_quantization,
    lora_rank, lora_target, cutoff_len, per_device_train_batch_size, gradient_accumulation_steps,
    per_device_eval_batch_size, val_size, eval_dataset, eval_strategy, do_eval, optim,
    enable_liger_kernel, disable_gradient_checkpointing, flash_attn, packing, neat_packing."""
    keys.choice("finetuning_type", "lora", ("lora",))
    notes = keys.unmodelled(LLAMAFACTORY_UNMODELLED)
    stage = keys.choice("stage", "sft", ("pt", "sft", "rm", "ppo", "dpo", "kto"))
    if stage not in ("pt", "sft"):
        notes.append(f"stage: {stage} runs more texts or models than sft; not modelled")
    if not any(keys.values.get(key) for key in ("bf16", "fp16", "pure_bf16")):
        notes.append("bf16: off, and fp16 too; what an fp32 training adds is not modelled")
    quantization = _llamafactory_quantization(keys)
    if quantization != "none":
        notes.append(
            "prepare_for_kbit_training: off; LLaMA-Factory 0.9.5 does not call peft's "
            "prepare_model_for_kbit_training, so norms and embeddings keep 16 bits"
        )
    attention = keys.choice("flash_attn", "auto", ("auto", "disabled", "sdpa", "fa2", "fa3"))
    cutoff_len = keys.count("cutoff_len", 2048)
    has_eval_rows = keys.amount("val_size") > 0 or bool(keys.values.get("eval_dataset"))
    strategy = keys.strategy("eval_strategy", "no")
    evaluates = has_eval_rows and (strategy != "no" or keys.flag("do_eval"))
    eval_batch = keys.count("per_device_eval_batch_size", 8)
    model = keys.text("model_name_or_path")
    shape = _shape(keys, "model_name_or_path", model)
    workload = Workload(
        shape=shape,
        lora_modules=_modules(keys, "lora_target", keys.values.get("lora_target") or "all", shape),
        lora_rank=keys.count("lora_rank", 8),
        optimizer=_optimizer(keys, "optim", "adamw_torch"),
        per_device_train_batch_size=keys.count("per_device_train_batch_size", 8),
        cutoff_len=cutoff_len,
        gradient_checkpointing=not keys.flag("disable_gradient_checkpointing"),
        gradient_accumulation_steps=keys.count("gradient_accumulation_steps", 1),
        quantization=quantization,
        double_quantization=keys.flag("double_quantization", True),
        attention="eager" if attention == "disabled" else "sdpa",
        prepare_for_kbit_training=False,
        fused_linear_cross_entropy=keys.flag("enable_liger_kernel"),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=cutoff_len if evaluates else 0,
        equal_lengths=keys.flag("packing") or keys.flag("neat_packing"),
        expandable_segments=False,
    )
    return Recipe(workload, model, "llamafactory", notes)


def _llamafactory_quantization(keys: _Keys) -> str:
    bits = keys.values.get("quantization_bit")
    keys.choice("quantization_type", "nf4", ("nf4", "fp4"))  # both hold 4 bits and the same scales
    if bits is None or bits == "none":
        return "none"
    keys.choice("quantization_method", "bnb", ("bnb", "bitsandbytes"))
    if type(bits) is not int or bits not in (4, 8):
        raise keys.refused("quantization_bit", "cannot be estimated", "allowed: 4, 8 or none")
    return "nf4" if bits == 4 else "int8"


def _axolotl(keys: _Keys) -> Recipe:
    """Source keys: load_in_4bit, load_in_8bit, adapter, lora_r, lora_target_modules,
    lora_target_linear, sequence_len, micro_batch_size, gradient_accumulation_steps,
    eval_batch_size, val_set_size, test_datasets, eval_strategy, optimizer, gradient_checkpointing,
    eager_attention, sdp_attention, flash_attention, attn_implementation, sample_packing, plugins,
    liger_fused_linear_cross_entropy."""
    if not keys.has("adapter"):
        raise keys.refused("adapter", "is missing: a full fine-tuning", "allowed: lora, qlora")
    adapter = keys.choice("adapter", "", ("lora", "qlora"))
    notes = keys.unmodelled(AXOLOTL_UNMODELLED)
    if keys.values.get("bf16") is False and not keys.values.get("fp16"):
        notes.append("bf16: off, and fp16 too; what an fp32 training adds is not modelled")
    quantization = _axolotl_quantization(keys, adapter)
    if quantization != "none":
        notes.append(
            "prepare_for_kbit_training: on, as Axolotl calls it; that Axolotl may turn norms and "
            "embeddings back to 16 bits afterwards is not modelled (the need may be smaller)"
        )
    checkpointing = keys.values.get("gradient_checkpointing")
    if isinstance(checkpointing, str):
        allowed = ("offload", "offload_disk", "unsloth")
        keys.choice("gradient_checkpointing", "", allowed)
        notes.append(f"gradient_checkpointing: {checkpointing} counted as on; not modelled")
    keys.flag("sdp_attention")
    keys.flag("flash_attention")
    is_eager = keys.flag("eager_attention") or keys.values.get("attn_implementation") == "eager"
    sequence_len = keys.count("sequence_len", 512)
    micro_batch = keys.count("micro_batch_size", 1)
    has_eval_rows = keys.amount("val_set_size") > 0 or bool(keys.values.get("test_datasets"))
    evaluates = has_eval_rows and keys.strategy("eval_strategy", "epoch") != "no"
    eval_batch = keys.count("eval_batch_size", micro_batch)
    model = keys.text("base_model")
    shape = _shape(keys, "base_model", model)
    workload = Workload(
        shape=shape,
        lora_modules=_axolotl_modules(keys, shape),
        lora_rank=keys.count("lora_r", None),
        optimizer=_optimizer(keys, "optimizer", "adamw_torch_fused"),
        per_device_train_batch_size=micro_batch,
        cutoff_len=sequence_len,
        gradient_checkpointing=isinstance(checkpointing, str)
        or keys.flag("gradient_checkpointing"),
        gradient_accumulation_steps=keys.count("gradient_accumulation_steps", 1),
        quantization=quantization,
        double_quantization=True,
        attention="eager" if is_eager else "sdpa",
        prepare_for_kbit_training=quantization != "none",
        fused_linear_cross_entropy=_axolotl_fused(keys, notes),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=sequence_len if evaluates else 0,
        equal_lengths=keys.flag("sample_packing"),
        expandable_segments=False,
    )
    return Recipe(workload, model, "axolotl", notes)


def _axolotl_quantization(keys: _Keys, adapter: str) -> str:
    in_4bit, in_8bit = keys.flag("load_in_4bit"), keys.flag("load_in_8bit")
    if in_4bit and in_8bit:
        raise keys.refused("load_in_8bit", "stands beside load_in_4bit", "keep one of them")
    if adapter == "qlora" and not in_4bit:
        raise keys.refused("adapter", "needs load_in_4bit: true", "set it, or write adapter: lora")
    return "nf4" if in_4bit else "int8" if in_8bit else "none"


def _axolotl_modules(keys: _Keys, shape: ModelShape) -> tuple[str, ...]:
    named = keys.values.get("lora_target_modules")
    if keys.flag("lora_target_linear") or named == "all-linear":
        return _modules(keys, "lora_target_linear", "all", shape)
    if not named:
        raise keys.refused(
            "lora_target_modules",
            "is missing",
            "name the modules, or set lora_target_linear: true",
        )
    return _modules(keys, "lora_target_modules", named, shape)


def _axolotl_fused(keys: _Keys, notes: list[str]) -> bool:
    """The key acts through the plugin alone (Axolotl `integrations/liger/plugin.py`)."""
    plugins = keys.values.get("plugins") or []
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise keys.refused("plugins", "is not a list of names", "write one '- name' a line")
    has_plugin = any("liger" in name.lower() for name in plugins)
    wants_fused = keys.flag("liger_fused_linear_cross_entropy")
    if wants_fused and not has_plugin:
        notes.append(
            "liger_fused_linear_cross_entropy: without effect, as plugins lacks "
            "axolotl.integrations.liger.LigerPlugin; counted as off"
        )
    if has_plugin and not wants_fused:
        notes.append(
            "plugins: liger without liger_fused_linear_cross_entropy leaves the logits whole; its "
            "other kernels are not modelled"
        )
    return wants_fused and has_plugin


def _shape(keys: _Keys, key: str, model: str) -> ModelShape:
    for folder in (Path(model), keys.path.parent / model):
        try:
            is_model = (folder / "config.json").is_file()
        except OSError:  # a text too long for a path
            break
        if is_model:
            return load_shape(folder)
    slug = shipped_shape_for(model)
    if slug is None:
        raise keys.refused(
            key,
            "names a model whose shape is not known here",
            "give the folder with its config.json, or one of: " + ", ".join(shape_names()),
        )
    return load_shape(shipped("configs", "models", slug))


def _modules(keys: _Keys, key: str, named: object, shape: ModelShape) -> tuple[str, ...]:
    """Names of the model's linear layers, each once, in the order written."""
    names = named.split(",") if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise keys.refused(key, "is not a list of module names", "write [q_proj, v_proj] or all")
    present = [linear.name for linear in shape.linears]
    modules = tuple(dict.fromkeys(name.strip() for name in names))
    if modules == ("all",):
        return tuple(present)
    missing = [name for name in modules if name not in present]
    if missing:
        raise keys.refused(
            key,
            f"names what this model ({shape.model_type}) lacks: {_shown(missing)}",
            f"it has {', '.join(present)}",
        )
    return modules


def _optimizer(keys: _Keys, key: str, default: str) -> str:
    name = keys.choice(key, default, (*OPTIMIZERS, *OPTIMIZER_ALIASES))
    return OPTIMIZER_ALIASES.get(name, name)


def _load_mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(f"{path}: cannot be read ({error})", "give a training YAML") from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45
        raise InputError(
            f"{path}: not valid YAML ({error})", "correct it where the message points"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: holds no mapping of keys", "give the YAML that the training is started with"
        )
    return values


def _shown(value: object) -> str:
    """A value for a message, short even where YAML aliases make it huge."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a huge number"


@dataclass(frozen=True)
class _Keys:
    """The file's keys, each read with its type; a null is an absent key."""

    path: Path
    values: Mapping[Any, Any]

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def refused(self, key: str, message: str, remedy: str) -> InputError:
        value = f" (is {_shown(self.values[key])})" if self.has(key) else ""
        return InputError(f"{self.path}: {key}: {message}{value}", remedy)

    def count(self, key: str, default: int | None) -> int:
        """A whole number from 1 to MAX_SIZE; without a default the key has to be there."""
        value = self.values.get(key) if self.has(key) else default
        if value is None:
            raise self.refused(key, "is missing", "write a whole number above 0")
        if type(value) is not int or value < 1:
            raise self.refused(key, "is not a whole number above 0", "write one, unquoted")
        if value > MAX_SIZE:
            raise self.refused(key, "is absurdly large", f"allowed: 1 to {MAX_SIZE}")
        return value

    def amount(self, key: str) -> float:
        """A number of rows or a share of them; 0 by default."""
        value = self.values.get(key) if self.has(key) else 0
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refused(key, "is not a number", "write a share or a number of rows")
        if not 0 <= value <= MAX_SIZE or math.isnan(value):
            raise self.refused(key, "is out of range", f"allowed: 0 to {MAX_SIZE}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, bool):
            raise self.refused(key, "is neither true nor false", "write true or false, unquoted")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.refused(key, "is not a text", "write a folder or a hub name")
        return value

    def choice(self, key: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.values.get(key) if self.has(key) else default
        if not isinstance(value, str) or value not in allowed:
            raise self.refused(key, "cannot be estimated", f"allowed: {', '.join(allowed)}")
        return value

    def strategy(self, key: str, default: str) -> str:
        """`no`, `steps` or `epoch`; YAML reads an unquoted no as false."""
        if self.values.get(key) is False:
            return "no"
        return self.choice(key, default, ("no", "steps", "epoch"))

    def unmodelled(self, reasons: Mapping[str, str]) -> list[str]:
        """A note for each key that is switched on."""
        switched_off: tuple[object, ...] = (None, False, 0, "", "none", "no", [], {})
        return [
            f"{key}: {_shown(self.values[key])} is not modelled: {reason}"
            for key, reason in reasons.items()
            if key in self.values and self.values[key] not in switched_off
        ]
