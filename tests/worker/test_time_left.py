"""The time left that a run shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import pytest

from tests.factories import PRUNED, FakeTrainer, make_ready
from vram_search.cli.plain_view import QuietView
from vram_search.spec import load_study
from vram_search.units import format_duration
from vram_search.worker import context, run, stop_rule
from vram_search.worker.prepare import prepare


def test_trials_of_earlier_runs_shorten_the_time_left(
    home: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make_ready(has_gpu=False, allocated_bytes=None)

    def start(*_: object, **__: object) -> FakeTrainer:
        return FakeTrainer(repeat([PRUNED]), ready)

    monkeypatch.setattr(context, "ResidentTrainer", start)
    study = load_study(write_study(strategy="random"))
    views = []
    for trials in (2, 3):
        stop = stop_rule.StopRule(trials)
        view = QuietView(study, stop, "sqlite://")
        run.run_study(prepare(study, lambda _: None), stop, view)
        views.append(view)
    assert [len(view.ended) for view in views] == [2, 1]
    assert [view.time_left() for view in views] == [f"about {format_duration(0)}"] * 2
