"""A spill is a collapsed step time on a full card, on Windows only."""

from __future__ import annotations

import pytest

from vram_search.gpu import SYSMEM_FALLBACK_HINT, is_spilling
from vram_search.units import MIB

TOTAL = 16_311 * MIB
FULL = 14_700 * MIB
"""90 %: as full as Windows let an RTX 5060 Ti become while it spilled."""


def test_collapsed_steps_on_a_full_windows_card_are_a_spill() -> None:
    assert is_spilling([1.0, 1.1, 9.0, 12.0, 10.0], 1.0, FULL, TOTAL, is_wddm=True)


def test_on_linux_nothing_spills() -> None:
    assert not is_spilling([9.0, 12.0, 10.0], 1.0, FULL, TOTAL, is_wddm=False)


def test_slow_steps_on_a_roomy_card_have_another_cause() -> None:
    assert not is_spilling([9.0, 12.0, 10.0], 1.0, TOTAL // 2, TOTAL, is_wddm=True)


def test_a_full_card_at_full_speed_is_no_spill() -> None:
    assert not is_spilling([1.0, 1.1, 1.0], 1.0, TOTAL, TOTAL, is_wddm=True)


@pytest.mark.parametrize("steps", [[1.0, 1.0, 60.0], [60.0, 1.0, 1.0], [1.0, 60.0, 1.0]])
def test_one_slow_step_is_no_spill(steps: list[float]) -> None:
    assert not is_spilling(steps, 1.0, FULL, TOTAL, is_wddm=True)


def test_only_the_latest_steps_count() -> None:
    assert not is_spilling([9.0, 9.0, 9.0, 1.0, 1.0], 1.0, FULL, TOTAL, is_wddm=True)


@pytest.mark.parametrize("steps", [[], [30.0], [30.0, 30.0]])
def test_fewer_than_three_steps_say_nothing(steps: list[float]) -> None:
    assert not is_spilling(steps, 1.0, FULL, TOTAL, is_wddm=True)


def test_four_times_slower_is_the_border() -> None:
    assert not is_spilling([4.0] * 3, 1.0, FULL, TOTAL, is_wddm=True)
    assert is_spilling([4.01] * 3, 1.0, FULL, TOTAL, is_wddm=True)


def test_the_hint_names_the_setting_and_the_choice() -> None:
    assert "CUDA - Sysmem Fallback Policy" in SYSMEM_FALLBACK_HINT
    assert "Prefer No Sysmem Fallback" in SYSMEM_FALLBACK_HINT
