"""The sentences about the best trial: untuned model, usual settings, second place, seeds."""

from __future__ import annotations

import pytest

from vram_search.report.winner import is_clear, loss_words


def test_loss_is_shown_beside_the_untuned_models() -> None:
    assert loss_words(1.117, 2.31) == "1.1170, untuned 2.3100 (-52 %)"
    assert loss_words(1.117, None) == "1.1170"


@pytest.mark.parametrize(
    ("difference", "standard_error", "clear"),
    [(0.05, 0.01, True), (0.05, 0.06, False), (0.0020, 0.0001, False), (0.05, None, True)],
)
def test_difference_within_rows_or_seeds_is_not_clear(
    difference: float, standard_error: float | None, clear: bool
) -> None:
    assert is_clear(difference, standard_error, 1.0) is clear
