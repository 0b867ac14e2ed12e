"""Times of day in options, also in the night in which the clock is changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from vram_search.cli import options, queue
from vram_search.errors import InputError

pytestmark = pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has no tzset")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def set_clock(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: timezone | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(text)

    monkeypatch.setattr(options, "datetime", Clock)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-03-28T23:00", "2026-03-29T07:00:00+02:00"),
        ("2026-10-24T23:00", "2026-10-25T07:00:00+01:00"),
        ("2026-11-29T23:00", "2026-11-30T07:00:00+01:00"),
    ],
)
def test_morning_comes_at_its_time_when_the_clock_is_changed(
    clock: pytest.MonkeyPatch, now: str, until: str
) -> None:
    set_clock(clock, now)
    _, end = queue._window(None, "07:00")
    assert end is not None and end.isoformat() == until
    assert options.parse_until("07:00") == end.timestamp()


@pytest.mark.parametrize(
    ("now", "start"),
    [
        ("2026-11-29T21:00", "2026-11-29T22:00:00+01:00"),
        ("2026-11-29T23:00", None),
        ("2026-11-30T06:00", None),
        ("2026-11-30T08:00", "2026-11-30T22:00:00+01:00"),
    ],
)
def test_night_that_has_begun_is_used(
    clock: pytest.MonkeyPatch, now: str, start: str | None
) -> None:
    set_clock(clock, now)
    found, end = queue._window("22:00", "07:00")
    assert (found and found.isoformat()) == start
    assert end is not None and end.hour == 7


@pytest.mark.parametrize("text", ["25:00", "9999-12-31T23:59:59-14:00", "tonight", ""])
def test_text_that_is_no_time_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"--until .* is not a time"):
        queue._window(None, text)
