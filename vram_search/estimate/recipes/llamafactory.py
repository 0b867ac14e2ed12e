"""What a training YAML of LLaMA-Factory 0.9.5 (`hparams/*_args.py`) means in bytes."""

from __future__ import annotations

from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes.keys import (
    Recipe,
    RecipeKeys,
    modules_named,
    optimizer_named,
    shape_named,
)

UNMODELLED = {
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


def read_llamafactory(keys: RecipeKeys) -> Recipe:
    """The training that a file of LLaMA-Factory describes.

    Keys that decide: quantization_bit, quantization_method, quantization_type,
    double_quantization, lora_rank, lora_target, cutoff_len, per_device_train_batch_size,
    gradient_accumulation_steps, per_device_eval_batch_size, val_size, eval_dataset,
    eval_strategy, do_eval, optim, enable_liger_kernel, disable_gradient_checkpointing,
    flash_attn, packing, neat_packing.

    Raises:
        InputError: a value cannot be used; names its key.
    """
    keys.choice("finetuning_type", ("lora",), "lora")
    notes = keys.unmodelled(UNMODELLED)
    stage = keys.choice("stage", ("pt", "sft", "rm", "ppo", "dpo", "kto"), "sft")
    if stage not in ("pt", "sft"):
        notes.append(f"stage: {stage} runs more texts or models than sft; not modelled")
    if not any(keys.values.get(key) for key in ("bf16", "fp16", "pure_bf16")):
        notes.append("bf16: off, and fp16 too; what an fp32 training adds is not modelled")
    quantization = _quantization(keys)
    if quantization != "none":
        notes.append(
            "prepare_for_kbit_training: off; LLaMA-Factory 0.9.5 does not call peft's "
            "prepare_model_for_kbit_training, so norms and embeddings keep 16 bits"
        )
    attention = keys.choice("flash_attn", ("auto", "disabled", "sdpa", "fa2", "fa3"), "auto")
    cutoff_len = keys.size("cutoff_len", 2048)
    has_eval_rows = keys.number("val_size") > 0 or bool(keys.values.get("eval_dataset"))
    strategy = keys.strategy("eval_strategy", "no")
    evaluates = has_eval_rows and (strategy != "no" or keys.flag("do_eval"))
    eval_batch = keys.size("per_device_eval_batch_size", 8)
    model = keys.text("model_name_or_path")
    shape = shape_named(keys, "model_name_or_path", model)
    targets = keys.values.get("lora_target") or "all"
    workload = Workload(
        shape=shape,
        lora_modules=modules_named(keys, "lora_target", targets, shape),
        lora_rank=keys.size("lora_rank", 8),
        optimizer=optimizer_named(keys, "optim", "adamw_torch"),
        per_device_train_batch_size=keys.size("per_device_train_batch_size", 8),
        cutoff_len=cutoff_len,
        gradient_checkpointing=not keys.flag("disable_gradient_checkpointing"),
        gradient_accumulation_steps=keys.size("gradient_accumulation_steps", 1),
        quantization=quantization,
        double_quantization=keys.flag("double_quantization", True),
        attention="eager" if attention == "disabled" else "sdpa",
        prepare_for_kbit_training=False,
        fused_linear_cross_entropy=keys.flag("enable_liger_kernel"),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=cutoff_len if evaluates else 0,
        prediction_loss_only=False,  # Liger skips logits in training alone
        equal_lengths=keys.flag("packing") or keys.flag("neat_packing"),
        expandable_segments=False,
    )
    return Recipe(workload, model, "llamafactory", notes)


def _quantization(keys: RecipeKeys) -> str:
    bits = keys.values.get("quantization_bit")
    keys.choice("quantization_type", ("nf4", "fp4"), "nf4")  # both hold 4 bits and the same scales
    if bits is None or bits == "none":
        return "none"
    keys.choice("quantization_method", ("bnb", "bitsandbytes"), "bnb")
    if type(bits) is not int or bits not in (4, 8):
        raise keys.refused("quantization_bit", "cannot be estimated", "allowed: 4, 8 or none")
    return "nf4" if bits == 4 else "int8"
