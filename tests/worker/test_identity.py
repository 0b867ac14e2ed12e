"""A new training process must load what the study recorded; otherwise the night stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.factories import make_ready
from vram_search.errors import InputError
from vram_search.spec import StudySpec
from vram_search.spec.answers import objective_identity
from vram_search.store import Store, StudyRecord, open_store, sqlite_url
from vram_search.worker.identity import (
    LOADED,
    WEIGHTS,
    IdentityCheck,
    SameAsSearch,
    refuse_changed_objective,
)

FINGERPRINTS = {"tokens": "t1", "base weights": "w1"}


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
        ({"fingerprints": FINGERPRINTS | {"base weights": "w2"}}, "base weights w1 -> w2"),
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
    changed = make_ready(fingerprints=FINGERPRINTS | {"base weights": "w2"})
    with pytest.raises(InputError, match="base weights w1 -> w2"):
        check_of(store, [])(changed)


def test_accepted_change_is_a_new_revision(store: Store) -> None:
    check_of(store, [])(make_ready(fingerprints=FINGERPRINTS))
    changed = make_ready(fingerprints=FINGERPRINTS | {"base weights": "w2"})
    check_of(store, [], accept_changes=True)(changed)
    record = store.study("demo")
    assert record is not None
    assert record.revision == 2
    assert record.spec[LOADED]["base weights"] == "w2"
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


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_code_of_the_objective_must_stay_the_same(
    store: Store, tmp_path: Path, change: str
) -> None:
    file = tmp_path / "score.py"
    file.write_text("def exact(answer, reference): return 1.0")
    key = f"{file}:exact"
    study = make_study(objective_key=key)
    record = replace(make_record(store), spec={"identity": objective_identity(key)})
    refuse_changed_objective(study, record)
    if change == "edited":
        file.write_text("def exact(answer, reference): return 0.0")
    else:
        file.unlink()
    with pytest.raises(InputError, match="the code of its objective has changed"):
        refuse_changed_objective(study, record)


def test_later_use_must_load_the_weights_of_the_search(store: Store) -> None:
    check_of(store, [])(make_ready(fingerprints=FINGERPRINTS, device="a card"))
    check = SameAsSearch(make_record(store), WEIGHTS)
    check(make_ready(fingerprints=FINGERPRINTS | {"tokens": "t2"}, device="CPU", data_hash="d2"))
    with pytest.raises(InputError, match="base weights w1 -> w2"):
        check(make_ready(fingerprints=FINGERPRINTS | {"base weights": "w2"}))
    with pytest.raises(InputError, match="rows d1 -> d2"):
        SameAsSearch(make_record(store), WEIGHTS, "d1")(make_ready(data_hash="d2"))


def make_record(store: Store) -> StudyRecord:
    record = store.study("demo")
    assert record is not None
    return record


def make_study(objective_key: str) -> StudySpec:
    """A study of which only the objective counts."""
    return cast(StudySpec, SimpleNamespace(objective_key=objective_key))
