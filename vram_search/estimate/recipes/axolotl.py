"""Reads the training that a file of Axolotl describes, as bytes."""

from __future__ import annotations

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.objectives import SFT
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
from vram_search.estimate.recipes.trl_objective import trl_adapter_element, without_head
from vram_search.estimate.recipes.whole_base import NOT_MEASURED, with_full_tuning
from vram_search.estimate.recipes.whole_modules import whole_modules

NEEDS_MORE = {
    "lora_target_parameters": "parameters outside the linear layers get an adapter",
    "qat": "weights are quantised while they train",
    "process_reward_model": "every step of an answer is scored",
    "unfrozen_parameters": "these parameters are trained whole",
    "use_dora": "magnitudes and norms of whole weights are added",
}
"""Axolotl's keys that add bytes which no term of the estimate holds."""

NEEDS_LESS = {
    "activation_offloading": "checkpoints are offloaded",
    "chunked_cross_entropy": "the loss is replaced",
    "deepspeed": "states may be shared out or offloaded",
    "dpo_use_liger_kernel": "the loss is computed in chunks",
    "fsdp": "states are shared out over cards",
    "fsdp_config": "states are shared out over cards",
    "layer_offloading": "layers are offloaded",
    "lora_on_cpu": "the adapter stays in the computer's memory",
    "tiled_mlp": "the MLP runs in tiles",
}
"""Keys that may save bytes."""

UNMODELLED = {
    "auto_find_batch_size": "the micro-batch may shrink while it runs",
    "batch_size": "it may set the accumulation",
    "bnb_config_kwargs": "the quantisation may be another",
    "embeddings_skip_upcast": "the embeddings stay bf16 while the model is loaded",
    "flex_attention": "attention is replaced",
    "liger_cross_entropy": "the loss is replaced",
    "lora_layers_to_transform": "only some layers get an adapter",
    "lora_mlp_kernel": "other activations are kept",
    "lora_o_kernel": "other activations are kept",
    "lora_qkv_kernel": "other activations are kept",
    "neftune_noise_alpha": "noise is added to the embeddings",
    "optim_target_modules": "the optimizer is replaced (GaLore)",
    "peft": "peft's own settings (LoftQ)",
    "peft_layers_to_transform": "only some layers get an adapter",
    "relora": "adapters are merged while it runs",
    "resize_token_embeddings_to_32x": "the embeddings may grow",
    "s2_attention": "attention is replaced",
    "torch_compile": "the compiler keeps other activations",
    "unsloth_cross_entropy_loss": "the loss is replaced",
    "unsloth_lora_mlp": "kernels are replaced",
    "unsloth_lora_o": "kernels are replaced",
    "unsloth_lora_qkv": "kernels are replaced",
    "unsloth_rms_norm": "kernels are replaced",
    "unsloth_rope": "kernels are replaced",
    "xformers_attention": "attention is replaced",
}
"""Keys that change bytes a little, which no term of the estimate holds."""

CUT_LOSS_DISAGREES = ("arcee", "hunyuan_v1_dense", "hunyuan_v1_moe", "olmo3")
"""Values of `model_type` whose published sizes with Cut Cross Entropy are 35 to 230 % above the
estimate without logits, and 10 to 50 % below that with whole logits in the evaluation
(docs/accuracy.md). The plugin's source keeps none for them either; the cause is not known."""

RL = {"dpo": "trl dpo", "ipo": "trl dpo", "kto": "trl kto"}
"""Values of `rl` -> their objectives, as TRL 1.9 computes them, which Axolotl 0.19 asks for."""
OTHER_RL = ("orpo", "simpo", "grpo", "gdpo", "ebft")

CHECKPOINTING = ("offload", "offload_disk", "unsloth")


def read_axolotl(keys: RecipeKeys) -> Recipe:
    """The training that a file of Axolotl describes.

    Axolotl calls peft's prepare_model_for_kbit_training and turns what it widened back to 16 bits
    right afterwards, for every adapter except QLoRA with FSDP (`loaders/model.py`,
    `should_convert`). Its checkpoints are re-entrant (`utils/config/__init__.py`).

    Raises:
        InputError: a value cannot be used; names its key.
    """
    notes = [*keys.notes_on_keys(), *keys.reasons(UNMODELLED)]
    needs_more, needs_less = keys.reasons(NEEDS_MORE), keys.reasons(NEEDS_LESS)
    adapter = _adapter(keys)
    is_fp32 = not _is_half(keys)
    if is_fp32 and adapter:
        notes.append("bf16: off, and fp16 too; counted as weights in fp32 under autocast")
    model = model_named(keys)
    notes += model.notes
    needs_more += model.needs_more
    quantization = _quantization(keys, adapter, model, notes)
    refuse_dora_on(model.checkpoint, keys)
    checkpointing = keys.values.get("gradient_checkpointing")
    if isinstance(checkpointing, str):
        keys.choice("gradient_checkpointing", CHECKPOINTING)
        needs_less.append(f"gradient_checkpointing: {checkpointing} is counted as on")
    sequence_len = keys.size("cutoff_len")
    micro_batch = keys.size("per_device_train_batch_size")
    has_eval_rows = keys.number("val_size") > 0 or bool(keys.values.get("test_datasets"))
    evaluates = has_eval_rows and keys.strategy("eval_strategy") != "no"
    eval_batch = keys.size("per_device_eval_batch_size", micro_batch)
    whole = whole_modules(keys, "lora_modules_to_save", model.shape, needs_more)
    with_liger, with_cce = _fused_losses(keys, notes)
    if with_cce and evaluates and model.shape.model_type in CUT_LOSS_DISAGREES:
        with_liger, with_cce = True, False  # no logits in training, whole ones in an evaluation
        needs_less.append(
            f"plugins: Cut Cross Entropy in the evaluation of {model.shape.model_type} is not "
            "modelled: the figure is an upper bound, with whole logits there; published sizes are "
            "between that and none"
        )
    objective = _objective(keys, notes, needs_more)
    packs = keys.flag("sample_packing") or keys.flag("pad_to_sequence_len")
    packs = packs and objective == SFT
    shape = without_head(model.shape) if objective == "trl reward" else model.shape
    targets = _targets(keys, adapter, notes)
    experts = NO_EXPERTS
    if adapter:
        experts = expert_adapters(keys, targets, model.shape, needs_more)
    workload = Workload(
        shape=shape,
        lora_modules=model.shape.linear_kinds[:1]
        if targets is None
        else modules_named(keys, targets, model.shape, notes, experts),
        expert_features=experts.features,
        lora_rank=keys.size("lora_rank", None if adapter else 8),
        optimizer=optimizer_named(keys, notes),
        per_device_train_batch_size=micro_batch,
        cutoff_len=sequence_len,
        gradient_checkpointing=isinstance(checkpointing, str)
        or keys.flag("gradient_checkpointing"),
        gradient_accumulation_steps=keys.size("gradient_accumulation_steps"),
        quantization=quantization,
        double_quantization=True,
        attention="eager" if _is_eager(keys) else "sdpa",
        prepare_for_kbit_training=is_fp32,
        fused_linear_cross_entropy=with_liger,
        cut_cross_entropy=with_cce,
        reentrant_checkpointing=keys.is_reentrant(default=True),
        per_device_eval_batch_size=eval_batch if evaluates else 0,
        eval_cutoff_len=keys.size("eval_cutoff_len", sequence_len) if evaluates else 0,
        prediction_loss_only=False,  # Liger skips logits in training alone
        equal_lengths=packs,
        packed=packs and keys.flag("sample_packing") and _is_sdpa(keys),
        expandable_segments=False,
        quantized_experts=keys.flag("quantize_moe_experts")
        or keys.flag("llama4_linearized_experts"),
        objective=objective,
        adapter_element_bytes=trl_adapter_element(quantization) if objective != SFT else FP32,
        **whole.as_fields(BF16),
        **keys.optional_hyperparameters(),
    )
    if not adapter and quantization == "none":
        needs_more.append(f"adapter: is missing, a full fine-tuning: {NOT_MEASURED}")
        note_lean_states(keys, needs_less)
        workload = with_full_tuning(workload, FP32 if is_fp32 else BF16)
    return Recipe(workload, model.name, "axolotl", notes, needs_more, needs_less)


def _is_half(keys: RecipeKeys) -> bool:
    """The weights are loaded in 16 bits: `bf16` is `auto` where it is absent
    (`utils/schemas/config.py`)."""
    halves = ("fp16", "float16", "bfloat16", "load_in_8bit")
    return keys.values.get("bf16", "auto") not in (False, None) or any(map(keys.is_on, halves))


def _objective(keys: RecipeKeys, notes: list[str], needs_more: list[str]) -> str:
    """The key of OBJECTIVES of `rl` and `reward_model`."""
    if keys.is_on("rl"):
        method = "dpo" if keys.values["rl"] is True else keys.choice("rl", (*RL, *OTHER_RL))
        if keys.values["rl"] is True:
            notes.append("rl: true is a former value, read as dpo")
        if method in OTHER_RL:
            needs_more.append(f"rl: {method} is not modelled: it runs more texts or models")
            return SFT
        precomputed = method == "dpo" and keys.flag("precompute_ref_log_probs")
        return f"{RL[method]} precomputed" if precomputed else RL[method]
    return "trl reward" if keys.flag("reward_model") else SFT


def _adapter(keys: RecipeKeys) -> str:
    """`lora` or `qlora`; empty where all weights are trained."""
    if keys.values.get("adapter") is None:
        if keys.flag("load_in_4bit") or keys.flag("load_in_8bit"):
            raise keys.missing("adapter", "write adapter: qlora or lora to train a quantised model")
        return ""
    return keys.choice("adapter", ("lora", "qlora"))


def _quantization(keys: RecipeKeys, adapter: str, model: RecipeModel, notes: list[str]) -> str:
    in_4bit, in_8bit = keys.flag("load_in_4bit"), keys.flag("load_in_8bit")
    if in_4bit and in_8bit:
        raise keys.refused("load_in_8bit", "stands together with load_in_4bit", "keep one of them")
    if adapter == "qlora" and not in_4bit and not model.checkpoint:
        raise keys.refused("adapter", "needs load_in_4bit: true", "set it, or write adapter: lora")
    settings = keys.section("model_quantization_config_kwargs") or {}
    if settings.get("dequantize") is True:
        return "none"
    if not in_4bit and not in_8bit:
        return stored_quantization(model, notes)
    return "nf4" if in_4bit else "int8"


def _is_eager(keys: RecipeKeys) -> bool:
    keys.flag("sdp_attention")
    keys.flag("flash_attention")
    is_eager = keys.values.get("attn_implementation") == "eager"
    return keys.flag("eager_attention") or is_eager


def _is_sdpa(keys: RecipeKeys) -> bool:
    return keys.flag("sdp_attention") or keys.values.get("attn_implementation") == "sdpa"


def _targets(keys: RecipeKeys, adapter: str, notes: list[str]) -> object:
    """The LoRA modules of a file; None if it only names parameters outside the linear layers."""
    named = keys.values.get("lora_target_modules")
    if keys.flag("lora_target_linear") or not adapter:
        return "all"
    if not named and keys.values.get("lora_target_parameters"):
        notes.append(
            "lora_target_modules: is missing; an adapter on one layer of each block is counted"
        )
        return None
    if not named:
        notes.append("lora_target_modules: is missing; counted as q_proj and v_proj")
        named = ["q_proj", "v_proj"]
    return named


def _fused_losses(keys: RecipeKeys, notes: list[str]) -> tuple[bool, bool]:
    """Tells if Liger's fused loss and Cut Cross Entropy run.

    Liger's needs its plugin and its key (`integrations/liger/plugin.py`); the plugin of Cut Cross
    Entropy switches it on alone (`integrations/cut_cross_entropy/args.py`).
    """
    plugins = keys.list_of(str, "plugins") or []
    with_liger = any("liger" in name.lower() for name in plugins)
    with_cce = any("cutcrossentropy" in name.lower().replace("_", "") for name in plugins)
    wants_liger = keys.flag("liger_fused_linear_cross_entropy")
    if wants_liger and not with_liger:
        notes.append(
            "liger_fused_linear_cross_entropy: without effect, as plugins lacks "
            "axolotl.integrations.liger.LigerPlugin; counted as off"
        )
    if with_liger and not wants_liger:
        notes.append(
            "plugins: liger without liger_fused_linear_cross_entropy leaves the logits whole; its "
            "other kernels are not modelled"
        )
    if keys.is_on("cut_cross_entropy") and not with_cce:
        notes.append(
            "cut_cross_entropy: without effect, as plugins lacks "
            "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin; counted as off"
        )
    cuts = with_cce and keys.flag("cut_cross_entropy", default=True)
    return wants_liger and with_liger, cuts
