"""The forecast of a night: seconds of a full trial, trials that fit, and --fit-night."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vram_search.errors import InputError
from vram_search.estimate.night import (
    ENOUGH_TRIALS,
    forecast_night,
    seconds_of,
    share_that_fits,
    trial_seconds,
)
from vram_search.spec import load_study
from vram_search.worker.forecast import fit_night, forecast_study
from vram_search.worker.prepare import Prepared, prepare
from vram_search.worker.stop_rule import StopRule

HOUR = 3600.0


def test_first_trials_run_in_full_and_most_later_ones_are_stopped() -> None:
    assert forecast_night(HOUR, 3.5 * HOUR).full == 3
    assert forecast_night(HOUR, 3.5 * HOUR).stopped == 0
    long = forecast_night(HOUR, 20 * HOUR)
    assert long.full == 8 and long.stopped > 2 * long.full
    assert forecast_night(HOUR, 0.5 * HOUR).trials == 0
    later = forecast_night(HOUR, 10 * HOUR, full_so_far=4)
    assert later.full == 2 and later.stopped > forecast_night(HOUR, 10 * HOUR).stopped


def test_first_stopped_trials_count_little_because_they_stop_earlier_than_later_ones() -> None:
    unknown = forecast_night(HOUR, 10 * HOUR, full_so_far=4).stopped
    known = forecast_night(HOUR, 10 * HOUR, full_so_far=4, stopped_seconds=[0.05 * HOUR]).stopped
    assert unknown < known < 2 * unknown  # 9 times as many would fit


def test_stopped_trials_are_forecast_as_a_range() -> None:
    night = forecast_night(HOUR, 20 * HOUR)
    assert night.stopped_range == (13, 49) and night.stopped == 27
    assert forecast_night(HOUR, HOUR).stopped_range == (0, 3)


def test_share_makes_as_many_trials_fit_as_were_asked_for() -> None:
    share = share_that_fits(ENOUGH_TRIALS, HOUR, 2 * HOUR)
    assert 0 < share < 1
    assert abs(forecast_night(share * HOUR, 2 * HOUR).trials - ENOUGH_TRIALS) <= 2
    assert share_that_fits(ENOUGH_TRIALS, 1.0, 2 * HOUR) == 1
    assert seconds_of(3, HOUR) == 3 * HOUR


def test_seconds_of_a_trial_grow_with_steps_and_evaluations() -> None:
    plain = trial_seconds(2.0, 100, 8, 40, 1)
    assert 200 < plain < 240
    assert trial_seconds(2.0, 100, 8, 40, 4) > plain


@pytest.fixture
def prepared(home: Path, write_study: Callable[..., Path]) -> Prepared:
    training = {"num_train_epochs": 9000, "rungs": [0.5]}
    return prepare(load_study(write_study(training=training)), lambda _: None)


def test_night_without_a_limit_is_not_forecast(prepared: Prepared) -> None:
    assert forecast_study(prepared, StopRule(None)) is None
    by_trials = forecast_study(prepared, StopRule(8))
    assert by_trials is not None and by_trials.trials == pytest.approx(8, abs=1)


def test_fit_night_shortens_each_trial_and_keeps_the_full_setting(prepared: Prepared) -> None:
    full = forecast_study(prepared, StopRule(None, None, 1e9))
    assert full is not None

    def night() -> StopRule:
        return StopRule(None, None, time.monotonic() + 2 * full.full_seconds)

    before = forecast_study(prepared, night())
    assert before is not None and before.is_too_few
    fitted = fit_night(prepared, night())
    assert fitted.study.training.num_train_epochs == 9000
    assert 0.05 < fitted.study.training.trial_share < 0.5
    after = forecast_study(fitted, night())
    assert after is not None and after.trials >= ENOUGH_TRIALS - 3
    with pytest.raises(InputError, match="needs a limit of time"):
        fit_night(prepared, StopRule(3))


def test_dry_run_says_how_many_trials_the_night_holds(
    vram_search_without_training: Callable[..., subprocess.CompletedProcess[str]],
    write_study: Callable[..., Path],
    rows_are_not_encoded: None,
) -> None:
    file = write_study(training={"max_steps": 500_000, "rungs": [0.5]}, budget={"hours": 1})
    done = vram_search_without_training("run", file, "--dry-run")
    words = " ".join(done.stdout.split())
    assert "one full trial takes about" in words
    assert "that is few: --fit-night shortens each trial to" in words
    done = vram_search_without_training("run", file, "--dry-run", "--fit-night")
    words = " ".join(done.stdout.split())
    assert "note: each trial trains" in words and "that is few" not in words
