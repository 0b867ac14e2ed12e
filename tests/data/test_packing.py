"""Joining rows to sequences: LLaMA-Factory's rule, held by its properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vram_search.data.packing import ROWS_AT_ONCE, pack

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS, st.integers(16, 64))
def test_every_row_is_in_one_sequence_that_is_not_too_long(lengths: list[int], cutoff: int) -> None:
    sequences = pack(lengths, cutoff)
    assert sorted(place for one in sequences for place in one) == list(range(len(lengths)))
    for one in sequences:
        assert sum(min(lengths[place], cutoff) for place in one) <= cutoff


@given(LENGTHS, st.integers(16, 64))
def test_each_place_goes_to_the_longest_row_that_is_left_and_fits(
    lengths: list[int], cutoff: int
) -> None:
    left = [min(length, cutoff) for length in lengths]
    for sequence in pack(lengths, cutoff):
        room = cutoff
        for place in sequence:
            taken = min(lengths[place], cutoff)
            assert taken == max(length for length in left if length <= room)
            left.remove(taken)
            room -= taken
        assert not [length for length in left if length <= room], "another row would have fitted"


def test_a_row_that_is_cut_has_a_sequence_of_its_own() -> None:
    assert pack([50, 5, 4], 10) == [[0], [1, 2]]


def test_rows_are_joined_within_a_thousand_as_in_llama_factory() -> None:
    sequences = pack([6] * (ROWS_AT_ONCE + 1) + [4], 10)
    assert [ROWS_AT_ONCE, ROWS_AT_ONCE + 1] in sequences
    assert sum(len(one) == 1 for one in sequences) == ROWS_AT_ONCE
