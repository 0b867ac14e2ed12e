"""Finds the optimizer that a training file names, or the one that its states are counted as."""

from __future__ import annotations

from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.spec.optimizers import OPTIMIZERS, REFUSED_OPTIMIZERS

SAME = {
    "adamw_hf": "adamw_torch",
    "adamw_torch_npu_fused": "adamw_torch_fused",
    "adamw_torch_xla": "adamw_torch",
    "adamw_apex_fused": "adamw_torch_fused",
}
"""Second names, and optimizers with the same states (transformers `OptimizerNames`)."""

NEAREST = {
    **dict.fromkeys(
        ["adamw_torch_4bit", "ao_adamw_4bit", "adamw_torch_8bit", "ao_adamw_8bit", "ao_adamw_fp8"],
        "adamw_8bit",
    ),
    **dict.fromkeys(
        ["adamw_anyprecision", "grokadamw", "stable_adamw", "optimi_adamw", "adopt_adamw"],
        "adamw_torch",
    ),
    **dict.fromkeys(
        ["schedule_free_adamw", "schedule_free_radam", "flash_adam", "flash_adamw", "apollo_adamw"],
        "adamw_torch",
    ),
    **dict.fromkeys(
        ["galore_adamw", "galore_adamw_layerwise", "apollo_adamw_layerwise", "dion"], "adamw_torch"
    ),
    **dict.fromkeys(
        ["galore_adamw_8bit", "galore_adamw_8bit_layerwise", "q_galore_adamw8bit"], "adamw_8bit"
    ),
    **dict.fromkeys(
        ["galore_adafactor", "galore_adafactor_layerwise", "came_pytorch", "sinkgd", "adalomo"],
        "adafactor",
    ),
    **dict.fromkeys(["lomo", "flash_sgd", "flash_sgdw"], "sgd"),
    **dict.fromkeys(["schedule_free_sgd", "flash_lion", "muon"], "lion_32bit"),
}
"""Optimizers without a term of their own -> the known one with the most similar states. The states
belong to the adapter alone, so that the difference is small. With Axolotl's
(`utils/schemas/enums.py`, `CustomSupportedOptimizers`)."""


LEAN = ("galore", "q_galore", "apollo", "lomo", "adalomo")
"""Beginnings of the names of optimizers that keep little of the states of a whole weight matrix."""
LEAN_SWITCHES = ("use_galore", "use_apollo", "use_badam", "use_adam_mini")
"""LLaMA-Factory's keys for such optimizers."""


def optimizer_named(keys: RecipeKeys, notes: list[str]) -> str:
    """The optimizer as one of OPTIMIZERS, with a note where it is another one.

    Raises:
        InputError: no tool has an optimizer of that name.
    """
    name = keys.choice("optim", (*OPTIMIZERS, *SAME, *NEAREST))
    if name in NEAREST:
        key = keys.found("optim")[0]
        why = REFUSED_OPTIMIZERS.get(name, "").partition(", and here")[0]  # with an adapter alone
        reason = f" ({why})" if why else ""
        notes.append(
            f"{key}: {name}{reason} is counted as {NEAREST[name]}, whose states are similar"
        )
    return SAME.get(name) or NEAREST.get(name) or name


def note_lean_states(keys: RecipeKeys, needs_less: list[str]) -> None:
    """Adds a reason for a full tuning whose optimizer keeps less than the one that is counted."""
    key, name = keys.found("optim")
    if str(name).startswith(LEAN):
        needs_less.append(f"{key}: {name} keeps less than {NEAREST[name]}, which is counted")
    for switch in LEAN_SWITCHES:
        if keys.is_on(switch):
            needs_less.append(f"{switch}: keeps less than {name}, which is counted")
