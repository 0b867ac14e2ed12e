"""A new training process must load what the study recorded; otherwise the night stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.factories import make_ready
from vram_search.errors import InputError
from vram_search.store import Store, open_store, sqlite_url
from vram_search.worker.identity import LOADED, IdentityCheck

FINGERPRINTS = {"tokens": "t1", "weights": "w1"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(sqlite_url(tmp_path / "search.db"), create=True)) as opened:
        opened.create_study("demo", {}, "d1", {}, {})
        yield opened


def check_of(store: Store, notes: list[str], *, accept_changes: bool = False) -> IdentityCheck:
    record = store.study("demo")
    assert record is not None
    return IdentityCheck(store, record, notes.append, accept_changes)


def test_first_process_is_compared_with_the_recorded_rows(store: Store) -> None:
    with pytest.raises(InputError, match="rows d1 -> d2"):
        check_of(store, [])(make_ready(data_hash="d2"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_hash": "d2"}, "rows d1 -> d2"),
        ({"fingerprints": FINGERPRINTS | {"weights": "w2"}}, "weights w1 -> w2"),
        ({"fingerprints": FINGERPRINTS | {"tokens": "t2"}}, "tokens t1 -> t2"),
        ({"versions": {"torch": "2.9"}}, "torch 2.8 -> 2.9"),
        ({"device": "another card"}, "device a card -> another card"),
    ],
)
def test_later_process_of_a_run_must_load_the_same(
    store: Store, changes: dict[str, object], words: str
) -> None:
    same = {"fingerprints": FINGERPRINTS, "versions": {"torch": "2.8"}}
    check = check_of(store, [])
    check(make_ready(**same))
    check(make_ready(**same))
    with pytest.raises(InputError, match=words):
        check(make_ready(**(same | changes)))


def test_next_run_is_compared_with_the_record(store: Store) -> None:
    check_of(store, [])(make_ready(fingerprints=FINGERPRINTS))
    changed = make_ready(fingerprints=FINGERPRINTS | {"weights": "w2"})
    with pytest.raises(InputError, match="weights w1 -> w2"):
        check_of(store, [])(changed)


def test_accepted_change_is_a_new_revision(store: Store) -> None:
    check_of(store, [])(make_ready(fingerprints=FINGERPRINTS))
    changed = make_ready(fingerprints=FINGERPRINTS | {"weights": "w2"})
    check_of(store, [], accept_changes=True)(changed)
    record = store.study("demo")
    assert record is not None
    assert record.revision == 2
    assert record.spec[LOADED]["weights"] == "w2"
    check_of(store, [])(changed)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"versions": {"torch": "2.8.0"}}, {"versions": {"torch": "2.9.0"}}),
        ({"versions": {"bitsandbytes": "0.49.2"}}, {"versions": {"bitsandbytes": "0.50.0"}}),
        ({"versions": {"cuda": "12.8"}}, {"versions": {"cuda": "13.0"}}),
        ({"device": "NVIDIA GeForce RTX 4090"}, {"device": "NVIDIA H200"}),
        (
            {"versions": {"compute_dtype": "bfloat16"}},
            {"versions": {"compute_dtype": "float16"}},
        ),
    ],
)
def test_another_release_or_other_hardware_stops_a_later_run_until_it_is_accepted(
    store: Store, before: dict[str, object], now: dict[str, object]
) -> None:
    check_of(store, [])(make_ready(**before))
    with pytest.raises(InputError, match="loaded something else") as refused:
        check_of(store, [])(make_ready(**now))
    assert "new revision with --accept-changes" in str(refused.value.remedy)
    check_of(store, [], accept_changes=True)(make_ready(**now))
    record = store.study("demo")
    assert record is not None and record.revision == 2
    check_of(store, [])(make_ready(**now))


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("torch", "2.8.0", "2.8.1"),
        ("torch", "2.13.0+cpu", "2.13.0+cu130"),
        ("cuda", "12.8", "12.9"),
        ("another package", "1.0", "2.0"),
    ],
)
def test_another_patch_of_a_later_run_is_noted(
    store: Store, name: str, before: str, now: str
) -> None:
    notes: list[str] = []
    check_of(store, notes)(make_ready(versions={name: before}))
    check_of(store, notes)(make_ready(versions={name: now}))
    assert notes == [f"this run differs from the study's earlier ones: {name} {before} -> {now}"]
    record = store.study("demo")
    assert record is not None and record.revision == 1
