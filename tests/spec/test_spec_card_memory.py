"""The budget of a card, and of a device that takes the card's place."""

from __future__ import annotations

from vram_search.spec.card_memory import CardMemory

CARD = CardMemory(16_000, reserve_bytes=1_000, context_bytes=500)


def test_budget_is_the_total_less_reserve_and_context() -> None:
    assert CARD.budget_bytes == 14_500


def test_others_within_the_reserve_are_not_subtracted_twice() -> None:
    assert CARD.on_device(16_000, used_by_others_bytes=800).budget_bytes == 14_500


def test_others_beyond_the_reserve_replace_it() -> None:
    assert CARD.on_device(20_000, used_by_others_bytes=3_000) == CardMemory(20_000, 3_000, 500)
