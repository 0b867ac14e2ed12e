"""The loss that a file for TRL means, and what TRL does to the model for it."""

from __future__ import annotations

from dataclasses import replace

from vram_search.estimate.memory.elements import BF16, FP32
from vram_search.estimate.memory.objectives import SFT
from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.spec.shape import ModelShape

FORMER_KEYS = frozenset({"max_seq_length", "torch_dtype", "dataset_mixer", "max_prompt_length"})
"""Keys of versions that computed the logits of all tokens at once."""
OF_KTO = frozenset({"desirable_weight", "undesirable_weight"})
OF_DPO = frozenset(
    {"beta", "precompute_ref_log_probs", "f_divergence_type", "rpo_alpha", "ld_alpha"}
)
DPO_LOSSES = frozenset(
    [
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "aot_pair",
        "discopop",
        "apo_zero",
        "apo_down",
        "sigmoid_norm",
    ]
)
KTO_LOSSES = frozenset({"kto", "apo_zero_unpaired"})
"""Values of `loss_type` (`trainer/dpo_config.py`, `trainer/kto_config.py`)."""
OF_GENERATION = frozenset(
    {"num_generations", "max_completion_length", "use_vllm", "reward_model_path", "reward_funcs"}
)
"""Keys of the trainers that generate: GRPO, RLOO, online DPO."""


def trl_objective(keys: RecipeKeys, notes: list[str], needs_more: list[str]) -> str:
    """The key of OBJECTIVES that a file's keys mean; the command is not in the file."""
    names = {str(key) for key in keys.values if keys.values[key] is not None}
    generates = sorted(OF_GENERATION & names)
    if generates:
        needs_more.append(f"{generates[0]}: training that generates texts is not modelled")
        return SFT
    if "center_rewards_coefficient" in names:
        return "trl reward"
    losses = keys.values.get("loss_type")
    named = {str(loss) for loss in (losses if isinstance(losses, list) else [losses])}
    kind = "kto" if OF_KTO & names or KTO_LOSSES & named else "dpo"
    found = sorted((OF_KTO | OF_DPO) & names)
    found += ["loss_type"] if (DPO_LOSSES | KTO_LOSSES) & named else []
    if not found:
        return SFT
    former = sorted(FORMER_KEYS & names)
    how = f"whole logits, as {former[0]} is a key of TRL before 1" if former else "TRL 1.16"
    notes.append(f"{found[0]}: counted as `trl {kind}` ({how})")
    if not former:
        return f"trl {kind} in chunks"
    precomputed = kind == "dpo" and keys.flag("precompute_ref_log_probs")
    return "trl dpo precomputed" if precomputed else f"trl {kind}"


def trl_adapter_element(quantization: str) -> int:
    """Bytes of an element of the adapter, which TRL turns into bf16 over a quantised base
    (`trainer/sft_trainer.py` and `trainer/dpo_trainer.py`, `__init__`)."""
    return FP32 if quantization == "none" else BF16


def without_head(shape: ModelShape) -> ModelShape:
    """The model with one output in place of the head over all tokens.

    A model by its module tree keeps its head, so that a little too much is counted.
    """
    return shape if shape.tree is not None else replace(shape, tie_word_embeddings=True)
