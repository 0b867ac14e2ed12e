"""Reads the training that a file of TRL describes, and this program's exports for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.objectives import SFT
from vram_search.estimate.memory.peaks import fuses_loss
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.recipes.dora import refuse_dora_on
from vram_search.estimate.recipes.expert_adapters import NO_EXPERTS, expert_adapters
from vram_search.estimate.recipes.keys import Recipe, RecipeKeys
from vram_search.estimate.recipes.model import (
    RecipeModel,
    model_named,
    modules_named,
    stored_quantization,
)
from vram_search.estimate.recipes.optimizers import note_lean_states, optimizer_named
from vram_search.estimate.recipes.trl_objective import (
    FORMER_KEYS,
    trl_adapter_element,
    trl_objective,
    without_head,
)
from vram_search.estimate.recipes.whole_base import NOT_MEASURED, with_full_tuning
from vram_search.estimate.recipes.whole_modules import whole_modules
from vram_search.spec.families import MODELLED

NEEDS_MORE = {
    "lora_target_parameters": "parameters outside the linear layers get an adapter",
}
"""TRL's keys that add bytes which no term of the estimate holds."""

NEEDS_LESS = {
    "activation_offloading": "checkpoints are offloaded",
    "deepspeed": "states may be shared out or offloaded",
    "fsdp": "states are shared out over cards",
    "fsdp_config": "states are shared out over cards",
}
"""Keys that may save bytes."""

UNMODELLED = {
    "auto_find_batch_size": "the micro-batch may shrink while it runs",
    "neftune_noise_alpha": "noise is added to the embeddings",
    "padding_free": "texts are joined without padding",
    "torch_compile": "the compiler keeps other activations",
}
"""Keys that change bytes a little, which no term of the estimate holds."""


CHUNKED = "chunked_nll"
DTYPES = ("float32", "bfloat16", "float16", "auto")
"""Values of `dtype` (`trainer/model_config.py`); `auto` is counted as 16 bits."""


def read_trl(keys: RecipeKeys) -> Recipe:
    """The training that a file for `trl sft` describes.

    TRL 1 computes the loss in chunks unless Liger does or `loss_type` is another; either way its
    evaluations hold no logits (`trainer/sft_trainer.py`: `skip_logits` with Liger). It calls no
    prepare_model_for_kbit_training.

    Raises:
        InputError: a value cannot be used; names its key.
    """
    notes = [*keys.notes_on_keys(), *keys.reasons(UNMODELLED)]
    needs_more, needs_less = keys.reasons(NEEDS_MORE), keys.reasons(NEEDS_LESS)
    is_wide = keys.choice("dtype", DTYPES) == "float32"
    if is_wide:
        notes.append("dtype: float32, which TRL takes unless the file names another")
    model = model_named(keys)
    notes += model.notes
    needs_more += model.needs_more
    whole = whole_modules(keys, "lora_modules_to_save", model.shape, needs_more)
    with_liger = keys.flag("enable_liger_kernel")
    objective = trl_objective(keys, notes, needs_more)
    quantization = _quantization(keys, model, notes)
    shape = without_head(model.shape) if objective == "trl reward" else model.shape
    former = sorted(FORMER_KEYS & set(map(str, keys.values)))
    chunked = not with_liger and not former and keys.values.get("loss_type") in (None, CHUNKED)
    if objective != SFT:
        chunked = False
    elif chunked:
        notes.append(
            "loss_type: chunked_nll, as TRL 1 has it; versions before held all logits at once"
        )
    elif former and not with_liger:
        notes.append(
            f"loss_type: {former[0]} is a key of TRL before 1, which holds all logits at once"
        )
    cutoff_len = keys.size("cutoff_len")
    evaluates = keys.flag("do_eval") or keys.strategy("eval_strategy") != "no"
    eval_batch = keys.size("per_device_eval_batch_size")
    refuse_dora_on(model.checkpoint, keys)
    has_adapter = keys.flag("use_peft")
    if not has_adapter:
        has_lora = any(str(key).startswith("lora_") for key in keys.values)
        why = ", whatever the lora keys say" if has_lora else ""
        needs_more.append(f"use_peft: off{why}: a full fine-tuning: {NOT_MEASURED}")
        if quantization != "none":
            raise keys.refused("use_peft", "is off, and the model is quantised", "write true")
    targets = _targets(keys, notes)
    experts = NO_EXPERTS
    if has_adapter:
        experts = expert_adapters(keys, targets, model.shape, needs_more)
    workload = Workload(
        shape=shape,
        lora_modules=modules_named(keys, targets, model.shape, notes, experts),
        expert_features=experts.features,
        lora_rank=keys.size("lora_rank"),
        optimizer=optimizer_named(keys, notes),
        per_device_train_batch_size=keys.size("per_device_train_batch_size"),
        cutoff_len=cutoff_len,
        gradient_checkpointing=keys.flag("gradient_checkpointing", default=True),
        gradient_accumulation_steps=keys.size("gradient_accumulation_steps"),
        quantization=quantization,
        double_quantization=keys.flag("use_bnb_nested_quant"),
        attention="eager" if keys.values.get("attn_implementation") == "eager" else "sdpa",
        prepare_for_kbit_training=is_wide,
        fused_linear_cross_entropy=with_liger,
        reentrant_checkpointing=keys.is_reentrant(default=False),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=cutoff_len if evaluates else 0,
        prediction_loss_only=False,
        equal_lengths=keys.flag("packing") and objective == SFT,
        expandable_segments=False,
        objective=objective,
        adapter_element_bytes=trl_adapter_element(quantization),
        **whole.as_fields(BF16),
        **keys.optional_hyperparameters(),
    )
    if objective == SFT and (chunked or with_liger) and not former:
        workload = as_trl_computes(workload)
    if objective == SFT and _joins_micro_batch(keys):
        workload = _as_one_sequence(workload, notes)
    if objective.startswith(("trl dpo", "trl kto")):
        workload = replace(workload, lora_dropout=0.0)  # `disable_dropout`
    if not has_adapter:
        note_lean_states(keys, needs_less)
        workload = with_full_tuning(workload, FP32 if is_wide else BF16)
    return Recipe(workload, model.name, "trl", notes, needs_more, needs_less)


def as_trl_computes(workload: Workload) -> Workload:
    """The workload with the loss of TRL's SFTTrainer, which never holds all logits.

    Source: TRL 1.16 `trainer/sft_trainer.py`, `compute_loss` and `prediction_step`; TRL 1.9 with
    Liger, `skip_logits`.
    """
    return replace(
        workload,
        cut_cross_entropy=not fuses_loss(workload),
        tiled_loss=True,
        prediction_loss_only=True,
    )


def _joins_micro_batch(keys: RecipeKeys) -> bool:
    """True if the rows of a micro-batch become one sequence, and attention takes a mask for it.

    Source: TRL 1.15 `trainer/sft_trainer.py`, `self.padding_free`. Flash attention needs no mask.
    """
    if "max_seq_length" in keys.values:  # of versions that cut a stream of texts into rows
        return False
    strategy = keys.values.get("packing_strategy", "bfd")
    is_padding_free = keys.values.get("padding_free") is True
    joins = is_padding_free or (keys.flag("packing") and strategy != "wrapped")
    return joins and "flash" not in str(keys.values.get("attn_implementation"))


def _as_one_sequence(workload: Workload, notes: list[str]) -> Workload:
    rows, tokens = workload.per_device_train_batch_size, workload.cutoff_len
    notes.append(
        f"packing: TRL makes one sequence of a micro-batch, here {rows} x {tokens:,} tokens, and "
        "sdpa takes a mask over all of it; flash_attention_2 needs none"
    )
    evaluates = workload.per_device_eval_batch_size > 0
    return replace(
        workload,
        packed=True,
        per_device_train_batch_size=1,
        cutoff_len=rows * tokens,
        per_device_eval_batch_size=int(evaluates),
        eval_cutoff_len=workload.per_device_eval_batch_size * workload.eval_cutoff_len,
    )


def _quantization(keys: RecipeKeys, model: RecipeModel, notes: list[str]) -> str:
    if keys.flag("load_in_4bit"):
        return "nf4"
    return "int8" if keys.flag("load_in_8bit") else stored_quantization(model, notes)


def _targets(keys: RecipeKeys, notes: list[str]) -> object:
    """One text alone in a list reaches peft as a pattern (`ModelConfig.__post_init__`)."""
    named = keys.values.get("lora_target_modules")
    if named is None:
        notes.append("lora_target_modules: is missing; counted as q_proj and v_proj")
        return ["q_proj", "v_proj"]
    return named[0] if isinstance(named, list) and len(named) == 1 else named


def read_script(keys: RecipeKeys) -> Recipe:
    """The training of an export of ours for peft or Unsloth: sections instead of flat keys.

    Raises:
        InputError: a value cannot be used; names its key.
    """
    loader = str(keys.values["loader"])
    sections: dict[str, Mapping[str, Any]] = {
        name: keys.section(name) or {}
        for name in ("model", "quantization", "lora", "rows", "training")
    }
    model, lora = sections["model"], sections["lora"]
    checkpointing = lora.get("use_gradient_checkpointing")
    flat = {
        **sections["training"],
        "model_name_or_path": model.get("pretrained_model_name_or_path") or model.get("model_name"),
        "load_in_4bit": model.get("load_in_4bit") or sections["quantization"].get("load_in_4bit"),
        "use_bnb_nested_quant": sections["quantization"].get("bnb_4bit_use_double_quant", True),
        "use_peft": True,
        "dtype": model.get("dtype") or "bfloat16",
        "loss_type": "nll",
        "lora_r": lora.get("r"),
        "lora_alpha": lora.get("lora_alpha"),
        "lora_dropout": lora.get("lora_dropout"),
        "use_dora": lora.get("use_dora"),
        "lora_target_modules": lora.get("target_modules"),
        "max_length": sections["rows"].get("cutoff_len"),
        **({} if checkpointing is None else {"gradient_checkpointing": checkpointing}),
    }
    recipe = read_trl(replace(keys, values=flat))
    is_unsloth = loader == "unsloth"
    less = ["loader: unsloth replaces kernels, which is not modelled"] if is_unsloth else []
    # Both train with transformers' Trainer. Unsloth's loss is always fused, in evaluations too; a
    # model without a formula is counted with its logits, as a trace knows no such loss.
    is_fused = is_unsloth and recipe.workload.shape.model_type in MODELLED
    workload = replace(
        recipe.workload,
        adapter_element_bytes=FP32,
        cut_cross_entropy=is_fused,
        tiled_loss=False,
        prediction_loss_only=is_fused,
    )
    return replace(recipe, workload=workload, source=loader, needs_less=[*recipe.needs_less, *less])
