"""The budget is what both the study's card and the device that is here can give."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.errors import InputError
from vram_search.gpu import CardBudget, budget_here, emulation_words
from vram_search.spec.card_memory import CardMemory
from vram_search.units import GIB, MIB

RTX_5060_TI = CardMemory(16_311 * MIB, reserve_bytes=900 * MIB, context_bytes=500 * MIB)
H200_BYTES = 143_771 * MIB

bytes_on_a_card = st.integers(0, 200 * GIB)
cards = st.builds(
    CardMemory, st.integers(1, 200 * GIB), st.integers(0, 4 * GIB), st.integers(0, 2 * GIB)
)


def budget_or_none(device_bytes: int, others_bytes: int, card: CardMemory) -> CardBudget | None:
    try:
        return budget_here(device_bytes, others_bytes, card)
    except InputError:
        return None


def test_the_allocator_gets_what_reserve_and_context_leave() -> None:
    assert RTX_5060_TI.budget_bytes == 14_911 * MIB


@pytest.mark.parametrize("reserve", [600 * MIB, 700 * MIB])
def test_a_card_that_leaves_nothing_is_refused_with_its_figures(reserve: int) -> None:
    with pytest.raises(InputError, match=re.escape("1.00 GiB leave nothing")) as caught:
        budget_here(16_311 * MIB, 0, CardMemory(1024 * MIB, reserve, 424 * MIB))
    assert "reserve_bytes" in caught.value.remedy


def test_on_its_own_card_the_study_gets_the_cards_budget() -> None:
    budget = budget_here(16_311 * MIB, 300 * MIB, RTX_5060_TI)
    assert budget.budget_bytes == 14_911 * MIB
    assert (budget.limited_by, budget.emulated) == ("card", False)


def test_a_display_within_the_reserve_is_not_taken_off_twice() -> None:
    assert budget_here(16_311 * MIB, 900 * MIB, RTX_5060_TI).budget_bytes == 14_911 * MIB


def test_a_second_process_takes_from_the_budget() -> None:
    budget = budget_here(16_311 * MIB, 4_900 * MIB, RTX_5060_TI)
    assert budget.budget_bytes == 10_911 * MIB
    assert budget.limited_by == "other processes"
    assert "4.79 GiB that others use now" in budget.explanation


def test_a_large_card_plays_the_studys_small_one() -> None:
    budget = budget_here(H200_BYTES, 600 * MIB, RTX_5060_TI)
    assert budget.budget_bytes == 14_911 * MIB
    assert (budget.limited_by, budget.emulated) == ("card", True)
    assert "emulated" in budget.explanation


def test_a_crowded_large_card_limits_the_emulation() -> None:
    budget = budget_here(H200_BYTES, H200_BYTES - 8 * GIB, RTX_5060_TI)
    assert budget.budget_bytes == 8 * GIB - 500 * MIB
    assert (budget.limited_by, budget.emulated) == ("other processes", True)


def test_a_smaller_device_limits_the_study() -> None:
    budget = budget_here(12_282 * MIB, 300 * MIB, RTX_5060_TI)
    assert budget.budget_bytes == (12_282 - 900 - 500) * MIB
    assert (budget.limited_by, budget.emulated) == ("device", False)
    assert "smaller than the study's 15.93 GiB card" in budget.explanation


def test_a_smaller_and_crowded_device_names_the_larger_loss() -> None:
    budget = budget_here(15 * GIB, 8 * GIB, RTX_5060_TI)
    assert budget.limited_by == "other processes"


def test_the_same_card_under_another_driver_is_not_an_emulation() -> None:
    assert not budget_here(16_380 * MIB, 0, RTX_5060_TI).emulated


def test_a_full_device_is_refused_with_what_to_close() -> None:
    with pytest.raises(InputError, match=re.escape("others use 15.62 GiB")) as caught:
        budget_here(16_311 * MIB, 16_000 * MIB, RTX_5060_TI)
    assert "nvidia-smi" in caught.value.remedy


@given(bytes_on_a_card.filter(bool), bytes_on_a_card, cards)
def test_a_budget_is_positive_and_fits_device_and_card(
    device_bytes: int, others_bytes: int, card: CardMemory
) -> None:
    budget = budget_or_none(device_bytes, others_bytes, card)
    if budget is None:
        kept = max(card.reserve_bytes, others_bytes)
        assert min(device_bytes - kept, card.total_bytes - card.reserve_bytes) <= card.context_bytes
        return
    assert 0 < budget.budget_bytes + card.context_bytes <= device_bytes - others_bytes
    assert budget.budget_bytes <= card.total_bytes - card.reserve_bytes - card.context_bytes
    assert budget.explanation.endswith(".")


@given(
    st.integers(20 * GIB, 200 * GIB),
    st.integers(0, 9 * GIB),
    st.integers(0, 8 * GIB),
    st.builds(
        CardMemory,
        st.integers(8 * GIB, 200 * GIB),
        st.integers(0, 4 * GIB),
        st.integers(0, 2 * GIB),
    ),
)
def test_more_device_and_fewer_neighbours_never_shrink_the_budget(
    device_bytes: int, others_bytes: int, change: int, card: CardMemory
) -> None:
    here = budget_here(device_bytes, others_bytes, card).budget_bytes
    assert budget_here(device_bytes + change, others_bytes, card).budget_bytes >= here
    fewer = max(0, others_bytes - change)
    assert budget_here(device_bytes, fewer, card).budget_bytes >= here
    larger = CardMemory(card.total_bytes + change, card.reserve_bytes, card.context_bytes)
    assert budget_here(device_bytes, others_bytes, larger).budget_bytes >= here


@pytest.mark.parametrize(
    ("total_bytes", "size"), [(16_311 * MIB, "16"), (24_564 * MIB, "24"), (5 * GIB // 2, "2.5")]
)
def test_emulated_card_is_named_by_the_size_it_is_sold_with(total_bytes: int, size: str) -> None:
    assert emulation_words(total_bytes, "NVIDIA H200") == f"emulated {size} GB on NVIDIA H200"
