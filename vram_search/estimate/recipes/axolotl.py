"""What a training YAML of Axolotl (`utils/schemas/*.py`) means in bytes."""

from __future__ import annotations

from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes.keys import (
    Recipe,
    RecipeKeys,
    modules_named,
    optimizer_named,
    shape_named,
)
from vram_search.spec.shape import ModelShape

UNMODELLED = {
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


def read_axolotl(keys: RecipeKeys) -> Recipe:
    """The training that a file of Axolotl describes.

    Keys that decide: load_in_4bit, load_in_8bit, adapter, lora_r,
    lora_target_modules, lora_target_linear, sequence_len, micro_batch_size,
    gradient_accumulation_steps, eval_batch_size, val_set_size, test_datasets, eval_strategy,
    optimizer, gradient_checkpointing, eager_attention, sdp_attention, flash_attention,
    attn_implementation, sample_packing, plugins, liger_fused_linear_cross_entropy.

    Raises:
        InputError: a value cannot be used; names its key.
    """
    if not keys.has("adapter"):
        raise keys.refused("adapter", "is missing: a full fine-tuning", "allowed: lora, qlora")
    adapter = keys.choice("adapter", ("lora", "qlora"))
    notes = keys.unmodelled(UNMODELLED)
    if keys.values.get("bf16") is False and not keys.values.get("fp16"):
        notes.append("bf16: off, and fp16 too; what an fp32 training adds is not modelled")
    quantization = _quantization(keys, adapter)
    if quantization != "none":
        notes.append(
            "prepare_for_kbit_training: on, as Axolotl calls it; that Axolotl may turn norms and "
            "embeddings back to 16 bits afterwards is not modelled (the need may be smaller)"
        )
    checkpointing = keys.values.get("gradient_checkpointing")
    if isinstance(checkpointing, str):
        allowed = ("offload", "offload_disk", "unsloth")
        keys.choice("gradient_checkpointing", allowed)
        notes.append(f"gradient_checkpointing: {checkpointing} counted as on; not modelled")
    keys.flag("sdp_attention")
    keys.flag("flash_attention")
    is_eager = keys.flag("eager_attention") or keys.values.get("attn_implementation") == "eager"
    sequence_len = keys.size("sequence_len", 512)
    micro_batch = keys.size("micro_batch_size", 1)
    has_eval_rows = keys.number("val_set_size") > 0 or bool(keys.values.get("test_datasets"))
    evaluates = has_eval_rows and keys.strategy("eval_strategy", "epoch") != "no"
    eval_batch = keys.size("eval_batch_size", micro_batch)
    model = keys.text("base_model")
    shape = shape_named(keys, "base_model", model)
    workload = Workload(
        shape=shape,
        lora_modules=_modules(keys, shape),
        lora_rank=keys.size("lora_r"),
        optimizer=optimizer_named(keys, "optimizer", "adamw_torch_fused"),
        per_device_train_batch_size=micro_batch,
        cutoff_len=sequence_len,
        gradient_checkpointing=isinstance(checkpointing, str)
        or keys.flag("gradient_checkpointing"),
        gradient_accumulation_steps=keys.size("gradient_accumulation_steps", 1),
        quantization=quantization,
        double_quantization=True,
        attention="eager" if is_eager else "sdpa",
        prepare_for_kbit_training=quantization != "none",
        fused_linear_cross_entropy=_fused_loss(keys, notes),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=sequence_len if evaluates else 0,
        prediction_loss_only=False,  # Liger skips logits in training alone
        equal_lengths=keys.flag("sample_packing"),
        expandable_segments=False,
    )
    return Recipe(workload, model, "axolotl", notes)


def _quantization(keys: RecipeKeys, adapter: str) -> str:
    in_4bit, in_8bit = keys.flag("load_in_4bit"), keys.flag("load_in_8bit")
    if in_4bit and in_8bit:
        raise keys.refused("load_in_8bit", "stands beside load_in_4bit", "keep one of them")
    if adapter == "qlora" and not in_4bit:
        raise keys.refused("adapter", "needs load_in_4bit: true", "set it, or write adapter: lora")
    return "nf4" if in_4bit else "int8" if in_8bit else "none"


def _modules(keys: RecipeKeys, shape: ModelShape) -> tuple[str, ...]:
    named = keys.values.get("lora_target_modules")
    if keys.flag("lora_target_linear") or named == "all-linear":
        return modules_named(keys, "lora_target_linear", "all", shape)
    if not named:
        raise keys.refused(
            "lora_target_modules",
            "is missing",
            "name the modules, or set lora_target_linear: true",
        )
    return modules_named(keys, "lora_target_modules", named, shape)


def _fused_loss(keys: RecipeKeys, notes: list[str]) -> bool:
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
