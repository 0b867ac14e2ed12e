"""Studies: recorded, found again, revised, ordered by activity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vram_search.errors import StoreError
from vram_search.store import Store, StudyRecord


def create(store: Store, name: str) -> StudyRecord:
    return store.create_study(name, {}, "d1", {}, {})


def test_study_comes_back_as_it_was_created(store: Store) -> None:
    before = datetime.now(UTC)
    spec = {"search_space": {"learning_rate": [1e-5, 1e-3]}, "name": "Übung"}
    created = store.create_study("a", spec, "d1", {"total_bytes": 16 * 2**30}, {"hidden": 2048})
    assert created == store.study("a")
    assert created.spec == spec
    assert created.card == {"total_bytes": 16 * 2**30}
    assert created.model == {"hidden": 2048}
    assert (created.revision, created.data_hash) == (1, "d1")
    assert before <= created.created_at <= datetime.now(UTC)
    assert created.created_at.utcoffset() == timedelta(0)


def test_unknown_study_is_none(store: Store) -> None:
    assert store.study("nobody") is None
    assert store.latest_study() is None
    assert store.studies() == []


def test_second_study_of_a_name_is_refused(store: Store, study: StudyRecord) -> None:
    with pytest.raises(StoreError, match="'demo' exists"):
        create(store, "demo")
    assert store.studies() == [study]


def test_revised_study_keeps_its_identity(store: Store, study: StudyRecord) -> None:
    revised = store.revise_study(study.id, {"trials": 60}, "d2", {"name": "b"}, {"name": "m2"})
    assert revised == store.study("demo")
    assert (revised.id, revised.created_at) == (study.id, study.created_at)
    assert (revised.revision, revised.spec, revised.data_hash) == (2, {"trials": 60}, "d2")
    assert (revised.card, revised.model) == ({"name": "b"}, {"name": "m2"})
    assert revised.updated_at > study.updated_at


def test_studies_are_listed_by_newest_activity(store: Store) -> None:
    a, b, c = (create(store, name) for name in "abc")
    assert [study.name for study in store.studies()] == ["c", "b", "a"]
    store.refresh_study(a.id, {})
    assert [study.name for study in store.studies()] == ["a", "c", "b"]
    store.start_trial(b.id, 0, {}, seed=1, data_hash="d1")
    assert [study.name for study in store.studies()] == ["b", "a", "c"]
    store.revise_study(c.id, {}, "d1", {}, {})
    assert store.latest_study() == store.study("c")


def test_changing_a_study_that_is_not_there_fails(store: Store, study: StudyRecord) -> None:
    missing = study.id + 1
    with pytest.raises(RuntimeError, match="not in the database"):
        store.refresh_study(missing, {})
    with pytest.raises(RuntimeError, match="not in the database"):
        store.revise_study(missing, {}, "d1", {}, {})
    with pytest.raises(RuntimeError, match="not in the database"):
        store.start_trial(missing, 0, {}, seed=1, data_hash="d1")
    assert store.studies() == [study]
