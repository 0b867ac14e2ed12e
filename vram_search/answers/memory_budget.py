"""The card's budget inside an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.answers.plain import PlainPart, described
from vram_search.estimate.memory_budget import MemoryBudget, Origin


@dataclass(frozen=True, kw_only=True)
class CardAnswer(PlainPart):
    """A card as far as memory goes: budget = total - reserve - context, in bytes."""

    name: str = field(metadata=described("Slug of configs/cards."))
    title: str
    total_bytes: int
    reserve_bytes: int = field(metadata=described("Left for the display and other programs."))
    context_bytes: int = field(metadata=described("Taken by CUDA's context."))
    budget_bytes: int = field(metadata=described("Bytes that the allocator may take."))
    context_origin: Origin = field(
        metadata=described(
            "Source of the context's bytes: assumed, measured (the card's file), or "
            "calibrated on this machine."
        )
    )


def card_answer(budget: MemoryBudget) -> CardAnswer:
    """Builds the answer's card from a memory budget."""
    card = budget.card
    return CardAnswer(
        name=card.name,
        title=card.label,
        total_bytes=card.total_bytes,
        reserve_bytes=card.reserve_bytes,
        context_bytes=budget.hardware.context_bytes,
        budget_bytes=budget.budget_bytes,
        context_origin=budget.origin,
    )
