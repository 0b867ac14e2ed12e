"""A proposal after thousands of trials costs no more than one after hundreds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage

from bench.scale.synthetic_search import search_in
from vram_search.search import encoding, observations
from vram_search.search.gp import acquisition
from vram_search.search.gp.acquisition import MOST_KNOWN
from vram_search.search.gp.surrogate import Surrogate


def test_surrogate_is_fitted_to_a_limited_number_of_trials_the_best_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    lowest: list[float] = []

    class Counted(Surrogate):
        def __init__(self, points: Any, losses: Any, *arguments: Any) -> None:
            sizes.append(len(points))
            lowest.append(float(np.min(losses)))
            super().__init__(points, losses, *arguments)

    monkeypatch.setattr(acquisition, "Surrogate", Counted)
    search = search_in(InMemoryStorage(), "gp", 1, trials=3 * MOST_KNOWN)
    search.ask()
    search.ask()  # one trial is running
    assert sizes == [MOST_KNOWN, MOST_KNOWN, MOST_KNOWN + 1]
    best = min(trial.value for trial in search._study.trials if trial.value is not None)
    assert lowest[0] <= np.log(best)


def test_finished_trials_are_read_once_and_a_running_one_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    decode = encoding.decode

    def counted(params: Any, space: Any) -> Any:
        read.append(1)
        return decode(params, space)

    search = search_in(InMemoryStorage(), "gp", 1, trials=30)
    monkeypatch.setattr(observations, "decode", counted)
    search.ask()
    assert len(read) == 30
    search.ask()
    assert len(read) == 31  # the trial of the first ask is running


def test_few_trials_are_all_kept() -> None:
    losses = np.array([3.0, 1.0, 2.0])
    assert acquisition._informative(losses) == [0, 1, 2]
