"""Bytes and durations as people write and read them; where shipped files and our folders lie."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vram_search.errors import Fault, FaultyFileError, InputError, VramSearchError
from vram_search.resources import cache_folder, data_folder, shipped
from vram_search.units import (
    GIB,
    MIB,
    clock_words,
    counted,
    end_words,
    format_bytes,
    format_duration,
    parse_bytes,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("16 GiB", 16 * GIB),
        ("500MiB", 500 * MIB),
        (" 12.5 gb ", 12_500_000_000),
        ("1 KiB", 1024),
        ("1 kB", 1000),
        ("1.5 TiB", 1536 * GIB),
        ("2 TB", 2_000_000_000_000),
        ("7 B", 7),
        ("123", 123),
        (123, 123),
    ],
)
def test_sizes_are_parsed_with_binary_and_decimal_units(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@given(st.integers(0, 2**50))
def test_whole_bytes_survive_being_written(count: int) -> None:
    assert parse_bytes(count) == parse_bytes(f"{count} B") == count
    assert parse_bytes(f"{count // MIB} MiB") == count // MIB * MIB


@given(st.integers(0, 2**50))
def test_formatted_size_is_read_back_within_its_last_digit(count: int) -> None:
    assert parse_bytes(format_bytes(count)) == pytest.approx(
        count, rel=0.005, abs=MIB // 2 if count >= MIB else 512
    )


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_bytes(text) >= 0
    except ValueError as error:
        assert "is not a size" in str(error)


@pytest.mark.parametrize("text", ["", "GiB", "-1 GiB", "1 PB", "1,5 GiB", "1e9", "1 Gi B", "nan"])
def test_text_that_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write it like '16 GiB'"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0 KiB"),
        (870 * MIB, "870 MiB"),
        (5.19 * GIB, "5.19 GiB"),
        (-2 * GIB, "-2.00 GiB"),
        (1023 * GIB, "1023.00 GiB"),
        (1536 * GIB, "1.50 TiB"),
    ],
)
def test_sizes_are_printed_for_a_person(count: float | None, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (float("inf"), "-"),
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (3599.7, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations_are_printed_for_a_person(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2 h 10 min", 7800), ("0.5 H", 1800)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "-5m", "0s", "m", "5 days", "5m later", "9" * 400 + "h"]
)
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


def test_errors_say_what_happened_then_what_to_do() -> None:
    error = InputError("the file is empty", "write rows into it")
    assert str(error) == "the file is empty\nwrite rows into it"
    assert str(VramSearchError("no remedy known")) == "no remedy known"
    assert (VramSearchError.exit_code, InputError.exit_code) == (1, 2)


def test_faults_are_listed_under_their_file() -> None:
    faults = [Fault("a.b", "is wrong", 3, "1, 2"), Fault("c", "is missing")]
    assert str(FaultyFileError("x.yaml", faults)) == (
        "x.yaml: 2 faults\n  a.b: is wrong (is 3); allowed: 1, 2\n  c: is missing"
    )
    assert str(FaultyFileError("x.yaml", faults[1:])).startswith("x.yaml: 1 fault\n")


def test_home_moves_database_and_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() == home
    assert cache_folder() == home / "cache"
    monkeypatch.delenv("VRAM_SEARCH_HOME")
    assert data_folder() != home
    assert data_folder().name == cache_folder().name == "vram-search"


def test_shipped_files_are_found() -> None:
    assert shipped("configs", "cards", "README.md").is_file()
    assert shipped("studies", "demo.yaml").is_file()


def test_one_thing_has_a_noun_in_the_singular() -> None:
    assert counted(1, "trial is", "trials are") == "1 trial is"
    assert [counted(n, "row", "rows") for n in (0, 2, 1000)] == ["0 rows", "2 rows", "1,000 rows"]


def test_moment_a_day_away_has_its_date() -> None:
    """A run of a weekend was printed as "22:00 to 07:00"."""
    evening = datetime(2026, 11, 27, 22, 0).astimezone()
    assert clock_words(evening + timedelta(hours=9), evening) == "07:00"
    assert clock_words(evening + timedelta(hours=57), evening) == "2026-11-30 07:00"
    assert clock_words(evening - timedelta(hours=2), evening) == "20:00"
    assert len(end_words(3600)) == len("07:00")
    assert end_words(1e18).startswith("21"), "no error beyond the calendar"
