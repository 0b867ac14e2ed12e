"""The time left that a run shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.conftest import READY
from vram_search.cli.live import QuietView
from vram_search.protocol import Finished, Ready, TrialJob
from vram_search.spec import load_study
from vram_search.units import format_duration
from vram_search.worker import context, run
from vram_search.worker.prepare import prepare


class Trainer:
    """Stands for the training process; every trial is pruned at once."""

    pid = None
    log = Path("none")

    def __init__(self, *_: object, **__: object) -> None: ...

    def ready(self) -> Ready:
        return READY.model_copy(update={"has_gpu": False, "allocated_bytes": None})

    def run(self, job: TrialJob, on_event: object, prune: object) -> Finished:
        return Finished(outcome="pruned", stage="train", step=1, steps_total=1)

    def replace(self) -> None: ...


def test_trials_of_earlier_runs_shorten_the_time_left(
    home: Path, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "ResidentTrainer", Trainer)
    study = load_study(write_study(strategy="random"))
    views = []
    for trials in (2, 3):
        stop = run.StopRule(trials, None)
        view = QuietView(study, stop, "sqlite://")
        run.run_study(prepare(study, lambda _: None), stop, view)
        views.append(view)
    assert [len(view.ended) for view in views] == [2, 1]
    assert [view.time_left() for view in views] == [f"about {format_duration(0)}"] * 2
