"""What a running search shows: the best of the study, its place in the night, the forecast."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.factories import HYPERPARAMETERS
from vram_search.cli.console import make_console
from vram_search.cli.live import LiveView, parts_bar
from vram_search.cli.plain_view import PlainView
from vram_search.protocol import Stage, Step
from vram_search.resources import shipped
from vram_search.spec import StudySpec, load_study
from vram_search.store import Store, TrialRecord, TrialResult, open_store, sqlite_url
from vram_search.worker.run import tell_what_was_found
from vram_search.worker.stop_rule import StopRule


@pytest.fixture
def study(home: Path, write_study: Callable[..., Path]) -> StudySpec:
    return load_study(write_study())


def complete_trial(store: Store, number: int, loss: float) -> TrialRecord:
    study = store.study("tiny") or store.create_study("tiny", {}, "d", {}, {})
    trial = store.start_trial(study.id, number, HYPERPARAMETERS, 1, "d")
    store.finish_trial(trial, TrialResult("complete", eval_loss=loss))
    record = store.trial(study.id, number)
    assert record is not None
    return record


@pytest.fixture
def trials(tmp_path: Path) -> list[TrialRecord]:
    store = open_store(sqlite_url(tmp_path / "live.db"), create=True)
    made = [complete_trial(store, number, loss) for number, loss in enumerate((1.2, 1.5, 1.1))]
    store.close()
    return made


def step(number: int) -> Step:
    return Step(step=number, loss=1.0, learning_rate=1e-4, grad_norm=1.0, seconds=60.0)


def test_best_so_far_is_the_studys_and_not_this_runs(
    study: StudySpec, trials: list[TrialRecord]
) -> None:
    view = PlainView(study, StopRule(9), "sqlite://")
    view.run_started(1, trials[0])
    view.untuned_evaluated(2.4)
    view.trial_ended(trials[1])
    assert view.best_words.startswith("best so far: trial 0, eval_loss 1.2000, untuned 2.4000 (-50")
    view.trial_ended(trials[2])
    assert view.best_words.startswith("best so far: trial 2, eval_loss 1.1000")


def test_trials_of_other_workers_are_shown_and_shorten_the_forecast(
    study: StudySpec, trials: list[TrialRecord]
) -> None:
    out = io.StringIO()
    console: Any = make_console(file=out, width=100)
    view = LiveView(study, StopRule(40), "sqlite://", console)
    view.ended = [dataclasses.replace(trials[0], seconds={"train": 60.0})]
    alone = view.night()
    view.others_running(
        [dataclasses.replace(trials[n], host=host) for n, host in ((1, "a"), (2, "b"), (0, "a"))]
    )
    console.print(view._draw())
    assert "other workers run trials 1, 0 on a, trial 2 on b" in out.getvalue()
    together = view.night()
    assert alone is not None and together is not None
    assert together.seconds == pytest.approx(alone.seconds / 4)


def test_trial_that_breaks_a_constraint_is_never_the_best_so_far(
    home: Path, store: Store, write_study: Callable[..., Path]
) -> None:
    limits = {"max_train_seconds": 60.0}
    made = store.create_study("tiny", {"constraints": limits}, "d", {}, {})
    for number, (loss, seconds) in enumerate(((1.1, 90.0), (1.2, 50.0), (1.0, 61.0))):
        trial = store.start_trial(made.id, number, HYPERPARAMETERS, 1, "d")
        result = TrialResult("complete", eval_loss=loss, seconds={"train": seconds})
        store.finish_trial(trial, result)
    view = PlainView(load_study(write_study(constraints=limits)), StopRule(9), "sqlite://")
    tell_what_was_found(store, made, StopRule(9), view)
    assert view.best is not None and view.best.number == 1
    view.trial_ended(store.trials(made.id)[2])
    assert view.best.number == 1


def test_night_is_forecast_from_the_first_measured_steps(
    study: StudySpec, capsys: pytest.CaptureFixture[str], trials: list[TrialRecord]
) -> None:
    stop = StopRule(None, (datetime.now(UTC) + timedelta(hours=2)).timestamp())
    view = PlainView(study, stop, "sqlite://")
    view.run_started(0, None)
    view.trial_event(Stage(stage="train", steps_total=60), None)
    for number in range(1, 6):
        view.trial_event(step(number), None)
    printed = capsys.readouterr().out
    assert printed.count("forecast from measured steps: one full trial takes about 1 h 0 min") == 1
    assert "hold about 1 full and 0 to 3 stopped trials" in printed  # a little under two hours
    assert "that is few: --fit-night shortens" in printed
    assert view.place_words.startswith("trial 1 of about 1, ends about ")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_table_folds_no_name(home: Path, trials: list[TrialRecord], width: int) -> None:
    study = load_study(shipped("studies", "td-010.yaml"))
    out = io.StringIO()
    console: Any = make_console(file=out, width=width, force_terminal=False)
    view = LiveView(study, StopRule(9), "sqlite://", console)
    view.run_started(0, None)
    for trial in trials:
        view.trial_ended(trial)
    console.print(view._table())
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + len(trials)
    assert max(map(len, lines)) <= width
    assert [line.split()[:3] for line in lines[1:]] == [
        [str(trial.number), "complete", f"{trial.value:.4f}"] for trial in trials
    ]
    assert ("settings" in lines[0]) == (width >= 80)


def test_view_says_that_the_base_is_loading_until_it_is(study: StudySpec) -> None:
    console: Any = make_console(file=io.StringIO(), width=80)
    view = LiveView(study, StopRule(9), "sqlite://", console)
    assert view._current()[0].startswith("loading the base model ...")
    view.note("evaluating the untuned model ...")
    assert view._current()[0].startswith("evaluating the untuned model ...")
    view.untuned_evaluated(None)
    assert view._current()[0].startswith("choosing the next trial ...")


def test_bar_of_the_card_shows_parts_and_limit() -> None:
    parts = {"base_weights": 4, "logits": 3, "context": 1}
    assert parts_bar(parts, total=16, limit=14, width=32) == "bbbbbbbbllllllcc............|..."
    assert parts_bar({"logits": 20}, total=16, limit=14, width=8) == "lllllll|"


def test_trend_of_the_best_is_shown_once_it_moved(
    study: StudySpec, trials: list[TrialRecord]
) -> None:
    out = io.StringIO()
    console: Any = make_console(file=out, width=60)
    view = LiveView(study, StopRule(9), "sqlite://", console)
    view.run_started(1, trials[0])
    console.print(view._draw())
    assert "trend" not in out.getvalue()
    view.trial_ended(trials[1])
    view.trial_ended(trials[2])
    console.print(view._draw())
    assert "trend of the best: ██▁" in out.getvalue()
