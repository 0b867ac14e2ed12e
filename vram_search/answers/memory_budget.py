"""The card's budget inside an answer."""

from __future__ import annotations

from pydantic import Field

from vram_search.answers.base import AnswerPart
from vram_search.estimate.memory_budget import MemoryBudget, Origin


class CardAnswer(AnswerPart):
    """A card as far as memory goes: budget = total - reserve - context, in bytes."""

    name: str = Field(description="Slug of configs/cards.")
    title: str
    total_bytes: int
    reserve_bytes: int = Field(description="Left for the display and other programs.")
    context_bytes: int = Field(description="Taken by CUDA's context.")
    budget_bytes: int = Field(description="Bytes that the allocator may take.")
    context_origin: Origin = Field(
        description="Source of the context's bytes: assumed, measured (the card's file), or "
        "calibrated on this machine."
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
