"""Somebody sets the machine's clock during the night: durations stay what they are."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from vram_search.answers.run import stop_rule
from vram_search.spec import StudySpec
from vram_search.store import TrialResult, open_store, sqlite_url
from vram_search.store import store as store_module
from vram_search.worker.stop_rule import StopRule

HOUR = 3600.0


class ClockTurnedBack(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.fromtimestamp(time.time() - 2 * HOUR, tz)


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`moved_clock[0] = seconds` sets the wall clock forward or back."""
    moved, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + moved[0])
    return moved


@pytest.mark.parametrize("seconds", [-2 * HOUR, 2 * HOUR])
def test_hours_do_not_follow_the_clock(moved_clock: list[float], seconds: float) -> None:
    study: Any = StudySpec
    stop = stop_rule(study, None, hours=1.0)
    moved_clock[0] = seconds
    assert stop.seconds_left == pytest.approx(HOUR, abs=60)


def test_time_of_day_follows_the_clock(moved_clock: list[float]) -> None:
    stop = StopRule(None, until=time.time() + HOUR)
    moved_clock[0] = 2 * HOUR
    assert stop.seconds_left == pytest.approx(-HOUR, abs=60)


def test_earlier_limit_of_time_counts() -> None:
    stop = StopRule(None, until=time.time() + HOUR, ends_at=time.monotonic() + 2 * HOUR)
    assert stop.seconds_left == pytest.approx(HOUR, abs=60)
    assert StopRule(3).seconds_left is None


def test_duration_of_a_trial_does_not_follow_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(open_store(sqlite_url(tmp_path / "search.db"), create=True)) as store:
        study = store.create_study("demo", {}, "d1", {}, {})
        trial_id = store.start_trial(study.id, 0, {}, seed=1, data_hash="d1")
        monkeypatch.setattr(store_module, "datetime", ClockTurnedBack)
        store.finish_trial(trial_id, TrialResult("complete", eval_loss=1.0))
        trial = store.trials(study.id)[0]
    assert trial.finished_at is not None
    assert 0 <= (trial.finished_at - trial.started_at).total_seconds() < 60
    assert trial.started_at < datetime.now(UTC)
