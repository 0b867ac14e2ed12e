"""The table of trials in a terminal: what folds, what is aligned, what is coloured."""

from __future__ import annotations

import pytest

from vram_search.report.tables import Column, _fitting_widths, _fold, _row_lines, _width


def plain(text: str, style: str) -> str:
    return text


def rows_of(columns: list[Column], width: int) -> list[str]:
    widths = _fitting_widths(columns, width)
    number = len(columns[0].cells)
    return [line for row in range(number) for line in _row_lines(columns, widths, row, plain)]


def test_columns_are_as_wide_as_their_longest_cell_and_numbers_stand_on_the_right() -> None:
    columns = [
        Column("#", ["1", "12"], is_right=True),
        Column("outcome", ["complete", "oom"]),
        Column("GiB", ["9.00", "12.50"], is_right=True),
    ]
    assert rows_of(columns, 80) == [" 1 complete  9.00", "12 oom      12.50"]


def test_only_folding_columns_are_narrowed_and_long_cells_continue_below() -> None:
    columns = [
        Column("run", ["llama-3-8b lora of june"], folds=True),
        Column("outcome", ["complete"]),
    ]
    assert rows_of(columns, 22) == ["llama-3-8b    complete", "lora of june"]


def test_a_long_word_is_cut_and_wide_characters_count_two_columns() -> None:
    assert list(_fold("abcdefghij kl", 4)) == ["abcd", "efgh", "ij", "kl"]
    assert _width("模型 e\N{COMBINING ACUTE ACCENT}") == 6
    assert list(_fold("模型模型", 4)) == ["模型", "模型"]


@pytest.mark.parametrize("width", [10, 20])
def test_a_terminal_narrower_than_the_table_keeps_eight_columns_of_a_name(width: int) -> None:
    columns = [Column("run", ["x" * 20], folds=True), Column("outcome", ["complete"])]
    assert _fitting_widths(columns, width)[0] in (8, width - 9)
