"""Refuses DoRA in a training file if peft cannot train it on the file's quantisation."""

from __future__ import annotations

from vram_search.estimate.recipes.keys import RecipeKeys
from vram_search.spec.lora_targets import WITHOUT_DORA


def refuse_dora_on(method: str, keys: RecipeKeys) -> None:
    """Refuses `use_dora: true` on weights of a quantisation method; empty for plain weights.

    Raises:
        FieldError: peft has no DoRA for the method.
    """
    if method in WITHOUT_DORA and keys.flag("use_dora"):
        raise keys.refused(
            "use_dora",
            f"peft has no DoRA on weights that are quantised with {method}",
            "set it to false, or quantise with bitsandbytes",
        )
