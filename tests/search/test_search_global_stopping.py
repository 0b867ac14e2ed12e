"""When a search ends before its time: no further improvement is expected."""

from __future__ import annotations

import math

from tests.factories import make_point, make_space
from vram_search.search.global_stopping import (
    COMPLETE_BEFORE_STOPPING,
    LEAST_GAIN,
    PROPOSALS_WITHOUT_GAIN,
    GlobalStopping,
)
from vram_search.search.gp.acquisition import Acquisition
from vram_search.search.gp.rules import GpRules
from vram_search.search.observations import Observation
from vram_search.search.problem import Problem
from vram_search.spec import Hyperparameters

SPACE = make_space(learning_rate={"min": 1e-5, "max": 1e-2})


def at(learning_rate: float) -> Hyperparameters:
    return make_point(learning_rate=learning_rate)


def due(gains: list[float], complete: int = COMPLETE_BEFORE_STOPPING) -> bool:
    stopping = GlobalStopping()
    return [stopping.is_due(complete, gain) for gain in gains][-1]


def test_search_ends_after_so_many_proposals_without_gain_in_a_row() -> None:
    small = LEAST_GAIN / 2
    assert due([small] * PROPOSALS_WITHOUT_GAIN)
    assert not due([small] * (PROPOSALS_WITHOUT_GAIN - 1))
    assert not due([*[small] * (PROPOSALS_WITHOUT_GAIN - 1), 2 * LEAST_GAIN, small])


def test_search_goes_on_while_few_trials_are_complete() -> None:
    assert not due([0.0] * PROPOSALS_WITHOUT_GAIN, complete=COMPLETE_BEFORE_STOPPING - 1)


def gain(seen: list[Observation], rates: list[float]) -> float:
    acquisition = Acquisition(Problem(SPACE, rungs=(1 / 9, 1 / 3, 2 / 3)), GpRules())
    found = acquisition.propose(seen, [at(rate) for rate in rates]).gain
    assert found is not None, "there is no opening"
    return found


def test_a_gain_is_expected_where_nothing_was_tried_and_little_beside_what_was() -> None:
    rates = [10 ** (-5 + place / 4) for place in range(13)]
    losses = [1.5 + 0.1 * (math.log10(rate) + 3.5) ** 2 for rate in rates]
    seen = [
        Observation(number, at(rate), (loss,) * 3, loss)
        for number, (rate, loss) in enumerate(zip(rates, losses, strict=True))
    ]
    beside = [rate * 1.02 for rate in rates]
    assert gain(seen[:3], [3e-4]) > 2 * gain(seen, beside)
    assert gain(seen, [1e-5]) < LEAST_GAIN


def test_before_the_first_loss_any_gain_is_possible_and_with_nothing_left_none() -> None:
    assert gain([], [1e-4]) == math.inf
    assert gain([Observation(0, at(1e-4), (1.0, 1.0, 1.0), 1.0)], []) == 0.0
