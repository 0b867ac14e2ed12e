"""Reads the training that a file of LLaMA-Factory describes, as bytes."""

from __future__ import annotations

from dataclasses import replace

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.objectives import SFT
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes.dora import refuse_dora_on
from vram_search.estimate.recipes.keys import Recipe, RecipeKeys
from vram_search.estimate.recipes.model import (
    RecipeModel,
    model_named,
    modules_named,
    stored_quantization,
)
from vram_search.estimate.recipes.optimizers import note_lean_states, optimizer_named
from vram_search.estimate.recipes.whole_base import (
    NOT_MEASURED,
    with_full_tuning,
    with_trained_layers,
)
from vram_search.estimate.recipes.whole_modules import WholeModules, whole_modules
from vram_search.spec.shape import ModelShape

NEEDS_MORE = {
    "compute_accuracy": "evaluation keeps predictions",
    "freeze_extra_modules": "these modules are trained whole",
    "mixture_of_depths": "layers are replaced",
    "predict_with_generate": "evaluation generates with a cache",
    "ref_model": "a second model is loaded",
    "reward_model": "a second model is loaded",
    "upcast_lmhead_output": "the logits become fp32",
    "use_llama_pro": "layers are added",
}
"""LLaMA-Factory's keys that add bytes which no term of the estimate holds."""

NEEDS_LESS = {
    "deepspeed": "states may be shared out or offloaded",
    "fsdp": "states are shared out over cards",
    "fsdp_config": "states are shared out over cards",
    "use_kt": "experts stay in the computer's memory",
    "use_unsloth": "kernels and checkpoints are replaced",
    "use_unsloth_gc": "checkpoints are offloaded",
}
"""Keys that may save bytes."""

UNMODELLED = {
    "auto_find_batch_size": "the micro-batch may shrink while it runs",
    "fp8": "layers compute in 8 bits",
    "neftune_noise_alpha": "noise is added to the embeddings",
    "resize_vocab": "the embeddings may grow",
    "shift_attn": "attention is replaced",
    "torch_compile": "the compiler keeps other activations",
    "upcast_layernorm": "norms alone become fp32",
    "use_adam_mini": "the optimizer is replaced",
    "use_apollo": "the optimizer is replaced",
    "use_badam": "the optimizer is replaced",
    "use_galore": "the optimizer is replaced",
    "use_muon": "the optimizer is replaced",
}
"""Keys that change bytes a little, which no term of the estimate holds."""

BITS = {
    "bnb": (4, 8),
    "bitsandbytes": (4, 8),
    "hqq": (1, 2, 3, 4, 5, 6, 8),
    "eetq": (8,),
}
"""Quantisation methods -> their values of `quantization_bit`."""

STAGES = {"pt": SFT, "sft": SFT, "rm": "rm", "dpo": "dpo", "kto": "kto", "ppo": SFT}
"""Stages -> their objectives; of `ppo` only a part is counted."""
WITHOUT_REFERENCE = ("orpo", "simpo")
"""Values of `pref_loss` that need no reference (`hparams/finetuning_args.py`, `use_ref_model`)."""


def read_llamafactory(keys: RecipeKeys) -> Recipe:
    """The training that a file of LLaMA-Factory describes.

    Raises:
        InputError: a value cannot be used; names its key.
    """
    notes = [*keys.notes_on_keys(), *keys.reasons(UNMODELLED)]
    needs_more, needs_less = keys.reasons(NEEDS_MORE), keys.reasons(NEEDS_LESS)
    method = keys.choice("finetuning_type", ("lora", "oft", "freeze", "full"))
    if method == "oft":
        needs_more.append("finetuning_type: oft is not modelled: its rotations are not counted")
    stage = keys.choice("stage", tuple(STAGES))
    objective = _objective(keys, stage, needs_more)
    has_autocast = any(keys.flag(key) for key in ("bf16", "fp16"))
    if not has_autocast and not keys.flag("pure_bf16"):
        notes.append("bf16: off, and fp16 too; counted as bf16 weights with an adapter in fp32")
    model = model_named(keys)
    notes += model.notes
    needs_more += model.needs_more
    quantization = _quantization(keys, model, notes)
    refuse_dora_on(model.checkpoint or _method(keys), keys)
    if model.checkpoint == "fp8":
        needs_more.append(
            f"{model.name}: LLaMA-Factory from 0.9.4 on turns FP8 weights into 16 bits; counted in "
            "8 bits, as versions before hold them"
        )
    if quantization != "none":
        notes.append(
            "prepare_for_kbit_training: off; LLaMA-Factory does not call peft's "
            "prepare_model_for_kbit_training, so norms and embeddings keep 16 bits"
        )
    if keys.values.get("freeze_vision_tower") is False and _has_vision(model.shape):
        needs_more.append("freeze_vision_tower: False is not modelled: the vision tower is trained")
    whole = _whole_modules(keys, model, needs_more)
    attention = _attention(keys, notes)
    cutoff_len = keys.size("cutoff_len")
    if "max_source_length" in keys.values and "cutoff_len" not in keys.values:
        cutoff_len += keys.size("max_target_length", 512)  # versions of 2023 cut them apart
    has_eval_rows = keys.number("val_size") > 0 or bool(keys.values.get("eval_dataset"))
    strategy = keys.strategy("eval_strategy")
    evaluates = has_eval_rows and (strategy != "no" or keys.flag("do_eval"))
    eval_batch = keys.size("per_device_eval_batch_size")
    packs = keys.flag("packing", default=stage == "pt") or keys.flag("neat_packing")
    packs = packs and objective == SFT
    workload = Workload(
        shape=model.shape,
        lora_modules=modules_named(keys, keys.found("lora_target")[1], model.shape, notes),
        lora_rank=keys.size("lora_rank"),
        optimizer=optimizer_named(keys, notes),
        per_device_train_batch_size=keys.size("per_device_train_batch_size"),
        cutoff_len=cutoff_len,
        gradient_checkpointing=not keys.flag("disable_gradient_checkpointing"),
        gradient_accumulation_steps=keys.size("gradient_accumulation_steps"),
        quantization=quantization,
        double_quantization=keys.flag("double_quantization", True),
        attention="eager" if attention == "disabled" else "sdpa",
        prepare_for_kbit_training=False,
        has_autocast=has_autocast,
        fused_linear_cross_entropy=keys.flag("enable_liger_kernel"),
        reentrant_checkpointing=keys.flag("use_reentrant_gc", True),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=cutoff_len if evaluates else 0,
        prediction_loss_only=False,  # Liger skips logits in training alone
        equal_lengths=packs,
        packed=packs and keys.flag("neat_packing") and attention not in ("fa2", "fa3"),
        expandable_segments=False,
        objective=objective,
        **whole.as_fields(BF16 if keys.flag("pure_bf16") else FP32),
        **keys.optional_hyperparameters(),
    )
    if stage in ("dpo", "kto"):
        workload = replace(workload, lora_dropout=0.0)  # `disable_dropout_in_model`
    if method in ("full", "freeze"):
        if quantization != "none":
            raise keys.refused("finetuning_type", "trains no quantised model", "write lora")
        needs_more.append(f"finetuning_type: {method}: {NOT_MEASURED}")
        workload = _without_adapter(keys, method, workload, needs_less)
    return Recipe(workload, model.name, "llamafactory", notes, needs_more, needs_less)


def _attention(keys: RecipeKeys, notes: list[str]) -> str:
    """A value of `flash_attn`; versions before 0.9 had true and false, and off, which YAML reads as
    false."""
    value = keys.found("flash_attn")[1]
    former = {True: "fa2", False: "disabled", "off": "disabled"}
    if isinstance(value, bool | str) and value in former:
        attention = former[value]
        notes.append(f"flash_attn: {value} is a former value, read as {attention}")
        return attention
    return keys.choice("flash_attn", ("auto", "disabled", "sdpa", "fa2", "fa3"))


def _has_vision(shape: ModelShape) -> bool:
    return shape.tree is not None and any(g.part == "vision" for g in shape.tree.linears)


def _without_adapter(
    keys: RecipeKeys, method: str, workload: Workload, needs_less: list[str]
) -> Workload:
    """Trained weights are in fp32, but with `pure_bf16` and BAdam (`model/adapter.py`)."""
    element = BF16 if keys.flag("pure_bf16") or keys.is_on("use_badam") else FP32
    note_lean_states(keys, needs_less)
    if method == "full":
        return with_full_tuning(workload, element)
    needs_less.append("finetuning_type: freeze: activations of all layers are counted")
    layers = keys.values.get("freeze_trainable_layers", 2)
    if type(layers) is not int or layers == 0:
        raise keys.refused("freeze_trainable_layers", "is not a number of layers", "write 2 or -2")
    return with_trained_layers(workload, layers, element)


def _objective(keys: RecipeKeys, stage: str, needs_more: list[str]) -> str:
    """The key of OBJECTIVES that a stage stands for."""
    if stage == "ppo":
        needs_more.append(
            "stage: ppo is not modelled: policy, value head, reward model and generation run "
            "together"
        )
    if stage == "dpo" and keys.values.get("pref_loss") in WITHOUT_REFERENCE:
        return "llamafactory orpo"
    objective = STAGES[stage]
    return objective if objective == SFT else f"llamafactory {objective}"


def read_llamafactory_v1(keys: RecipeKeys) -> Recipe:
    """The training that a file of LLaMA-Factory's v1 trainer describes (`v1/config/*.py`).

    Raises:
        InputError: a value cannot be used; names the key that it stands for.
    """
    values = keys.values
    adapter, quantization = keys.section("peft_config") or {}, keys.section("quant_config") or {}
    micro_batch, batch = values.get("micro_batch_size", 1), values.get("global_batch_size")
    is_whole = type(micro_batch) is int and type(batch) is int and micro_batch > 0
    flat = {
        "model_name_or_path": values["model"],
        "finetuning_type": adapter.get("name") or "full",
        "lora_rank": adapter.get("r"),
        "lora_dropout": adapter.get("lora_dropout"),
        "use_dora": adapter.get("use_dora"),
        "lora_target": adapter.get("target_modules"),
        "quantization_bit": quantization.get("quantization_bit"),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": max(1, batch // micro_batch) if is_whole else None,
        "cutoff_len": values.get("cutoff_len"),
        "bf16": values.get("bf16", True),
        "disable_gradient_checkpointing": values.get("enable_activation_checkpointing") is False,
        "use_reentrant_gc": False,
        "fsdp_config": values.get("dist_config"),
    }
    recipe = read_llamafactory(replace(keys, values=flat))
    note = "stage: counted as sft; the file does not say it, the command does"
    return replace(recipe, source="llamafactory v1", notes=[*recipe.notes, note])


def _whole_modules(keys: RecipeKeys, model: RecipeModel, needs_more: list[str]) -> WholeModules:
    """With `resize_vocab` alone LLaMA-Factory trains embedding and head (`model/adapter.py`)."""
    if keys.values.get("resize_vocab") and not keys.values.get("additional_target"):
        keys = replace(keys, values={**keys.values, "additional_target": "embed_tokens,lm_head"})
    return whole_modules(keys, "additional_target", model.shape, needs_more)


def _method(keys: RecipeKeys) -> str:
    """The method of `quantization_bit`; empty for plain weights."""
    return str(keys.found("quantization_method")[1]) if keys.values.get("quantization_bit") else ""


def _quantization(keys: RecipeKeys, model: RecipeModel, notes: list[str]) -> str:
    """A checkpoint that is quantised already comes before `quantization_bit`
    (`model/model_utils/quantization.py`, `configure_quantization`)."""
    bits = keys.values.get("quantization_bit")
    keys.choice("quantization_type", ("nf4", "fp4"))  # both hold 4 bits and the same scales
    if bits is None or bits == "none" or model.checkpoint:
        if "quantization_method" in keys.values and not model.checkpoint:
            notes.append(
                "quantization_method: without effect, as quantization_bit is missing; the base is "
                "counted in 16 bits"
            )
        return stored_quantization(model, notes)
    method = keys.choice("quantization_method", tuple(BITS))
    if type(bits) is not int or bits not in BITS[method]:
        allowed = ", ".join(map(str, BITS[method]))
        raise keys.refused("quantization_bit", f"is not a size of {method}", f"allowed: {allowed}")
    counted = "nf4" if bits <= 4 else "int8"
    if method in ("hqq", "eetq"):
        notes.append(f"quantization_method: {method} with {bits} bits is counted as {counted}")
    return counted
