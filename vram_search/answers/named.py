"""Finds the card and LoRA modules that a caller names, for `estimate` and `fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vram_search.errors import InputError
from vram_search.spec import card_names as cards
from vram_search.spec.card_facts import CardFacts, PlainCard
from vram_search.spec.lora_targets import ALL, LORA_TARGET_SETS, parse_lora_target
from vram_search.spec.optimizers import OPTIMIZERS, REFUSED_OPTIMIZERS, optimizer_fault
from vram_search.spec.shape import ModelShape


def find_card(name: str | None) -> CardFacts:
    """Returns the card of a name as people write it; "auto" is the GPU in this machine.

    Raises:
        InputError: no card or several have that name, or no name is given.
    """
    if name is None:
        raise InputError(
            "which card is meant?",
            "--card with a name ('RTX 4060 Ti 16GB'), a size (16GB), or auto for the one here",
        )
    try:
        return PlainCard(**cards.find_card(name, _card_here))
    except ValueError as error:
        what, _, remedy = str(error).partition("; ")
        raise InputError(f"--card: {what}", remedy) from None


def _card_here() -> dict[str, Any]:
    from vram_search.gpu.this_card import card_here

    return card_here()


def lora_modules(shape: ModelShape, lora_target: str) -> tuple[str, ...]:
    """Returns the names of the linear layers that a set, a comma list or an expression selects.

    Raises:
        InputError: the model lacks a layer of that name, or the text names no set and no layers.
    """
    try:
        return shape.estimated_modules(parse_lora_target(lora_target))
    except ValueError as error:
        names = ", ".join(shape.linear_kinds)
        raise InputError(
            f"lora_target {lora_target!r}: {error}",
            f"give {', '.join(LORA_TARGET_SETS)} or names with commas out of {names}",
        ) from None


def model_note(note: str, shape: ModelShape, lora_target: str) -> str:
    """Returns a model's note, with the linear layers that a target `all` leaves out.

    Args:
        note: where the model's shape came from.
    """
    left_out = shape.left_out_words if lora_target in ALL else ""
    return "; ".join(filter(None, (clean(note), left_out)))


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    """Refuses an unknown name.

    Raises:
        InputError: the name is not known; the remedy lists similar names.
    """
    if name not in known:
        raise unknown(what, name, known)


def check_optimizer(name: str) -> None:
    """Refuses an optimizer that is not modelled.

    Raises:
        InputError: the name is not known, or transformers accepts it and it is not modelled.
    """
    if name in REFUSED_OPTIMIZERS:
        raise InputError(optimizer_fault(name), f"choose one of: {', '.join(OPTIMIZERS)}")
    check_name("optimizer", name, list(OPTIMIZERS))


def check_number(name: str, value: float | None, highest: float, *, lowest: int = 1) -> None:
    """Refuses a number out of range; None passes.

    Raises:
        InputError: with the range.
    """
    if value is not None and not lowest <= value <= highest:
        raise InputError(
            f"{name} {value} is out of range", f"give a number from {lowest} to {highest}"
        )


def unknown(what: str, name: str, known: Sequence[str], otherwise: str = "") -> InputError:
    import difflib

    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    remedy = f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(known)}"
    return InputError(f"no {what} {name!r}", f"{remedy} {otherwise}".rstrip())


def clean(words: str) -> str:
    """Replaces control characters, which a terminal would obey, by blanks."""
    return "".join(sign if sign.isprintable() else " " for sign in words)
