"""A study is created, continued or refused: what may change between two runs of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.resources import shipped
from vram_search.spec import StudySpec, load_shape
from vram_search.store import Store, StudyRecord
from vram_search.worker.open_study import differences, open_study
from vram_search.worker.prepare import Prepared

SHAPE = shipped("configs", "models", "smollm2-135m")
SPACE = {"lora_rank": [8, 16], "cutoff_len": [256, 512]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the study's rows."""
    made = tmp_path / "study"
    made.mkdir()
    write_rows(made / "rows.jsonl", "twice")
    return made


def write_rows(file: Path, word: str) -> None:
    rows = ({"instruction": f"{n} and {n}?", "output": f"{word} {n}"} for n in range(12))
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def prepared(folder: Path, **changes: Any) -> Prepared:
    """The study in `folder`, with some of its keys replaced."""
    written = {
        "study": "demo",
        "model": {"weights": "random", "shape": "smollm2-135m"},
        "dataset": {"train": "rows.jsonl", "val_size": 4},
        "card": "rtx-5060-ti-16gb",
        "search_space": SPACE,
        "training": {"max_steps": 6},
        "budget": {"trials": 3},
        **changes,
    }
    study = StudySpec.model_validate(written, context={"folder": folder})
    rows = load_rows(study.dataset, study.seed)
    return Prepared(study, rows, load_shape(SHAPE), str(SHAPE), tokenizer=None)


def begun(store: Store, folder: Path) -> StudyRecord:
    """The study with its first trial."""
    record = open_study(store, prepared(folder), accept_changes=False)
    store.start_trial(record.id, 0, {}, seed=1, data_hash=record.data_hash)
    return record


def refusal(store: Store, changed: Prepared, *, accept_changes: bool) -> InputError:
    """The error of opening a changed study, which leaves the record as it was."""
    before = store.studies()
    with pytest.raises(InputError) as raised:
        open_study(store, changed, accept_changes=accept_changes)
    assert store.studies() == before
    assert raised.value.exit_code == 2
    return raised.value


def test_new_study_is_recorded_with_what_it_is_about(store: Store, folder: Path) -> None:
    new = prepared(folder)
    record = open_study(store, new, accept_changes=False)
    assert store.study("demo") == record
    assert (record.revision, record.data_hash) == (1, new.rows.data_hash)
    assert record.spec["search_space"]["lora_rank"] == [8, 16]
    assert record.spec["identity"]["search_space.lora_rank"] == [8, 16]
    assert record.card["name"] == "rtx-5060-ti-16gb"
    assert record.model["name"] == "smollm2-135m (random weights)"
    assert record.model["parameters"] == load_shape(SHAPE).parameters


@pytest.mark.parametrize("accept_changes", [False, True])
def test_same_study_continues(store: Store, folder: Path, accept_changes: bool) -> None:
    record = open_study(store, prepared(folder), accept_changes=False)
    again = open_study(store, prepared(folder), accept_changes=accept_changes)
    assert again.id == record.id
    assert again.revision == 1, "accepting what has not changed starts no revision"


def test_studies_of_other_names_do_not_meet(store: Store, folder: Path) -> None:
    open_study(store, prepared(folder), accept_changes=False)
    other = prepared(folder, study="other", seed=7)
    assert open_study(store, other, accept_changes=False).revision == 1
    assert [study.name for study in store.studies()] == ["other", "demo"]


def test_changed_search_space_is_refused_and_shown(store: Store, folder: Path) -> None:
    begun(store, folder)
    changed = prepared(folder, search_space={**SPACE, "lora_rank": [16, 32, 64]})
    error = refusal(store, changed, accept_changes=False)
    assert "search_space.lora_rank: [8, 16] -> [16, 32, 64]" in error.message
    assert error.message.count("->") == 1, "the difference, and nothing else"
    assert "--accept-changes" in error.remedy


def test_accepted_search_space_becomes_the_next_revision(store: Store, folder: Path) -> None:
    begun(store, folder)
    changed = prepared(folder, search_space={**SPACE, "lora_rank": [16, 32, 64]})
    record = open_study(store, changed, accept_changes=True)
    assert (record.name, record.revision) == ("demo", 2)
    assert record.spec["search_space"]["lora_rank"] == [16, 32, 64]
    again = open_study(store, changed, accept_changes=False)
    assert again.revision == 2, "the new one is known now"
    assert refusal(store, prepared(folder), accept_changes=False), "and the old one is a change"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"card": "rtx-3060-12gb"}, "card.total_bytes"),
        ({"plan": {"gradient_checkpointing": True}}, "plan.gradient_checkpointing"),
        ({"enqueue_priors": False}, "enqueue_priors"),
        ({"search_space": {**SPACE, "learning_rate": 1e-4}}, "search_space.learning_rate.max"),
    ],
)
def test_change_that_leaves_losses_comparable_can_be_accepted(
    store: Store, folder: Path, changes: dict[str, Any], key: str
) -> None:
    begun(store, folder)
    changed = prepared(folder, **changes)
    assert f"{key}: " in refusal(store, changed, accept_changes=False).message
    assert open_study(store, changed, accept_changes=True).revision == 2


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model": {"weights": "random", "shape": "smollm2-360m"}}, "model.shape"),
        ({"seed": 7}, "seed"),
        ({"training": {"max_steps": 12}}, "training.max_steps"),
        ({"training": {"max_steps": 6, "weight_decay": 0.1}}, "training.weight_decay"),
        ({"dataset": {"train": "rows.jsonl", "val_size": 3}}, "dataset.val_size"),
    ],
)
def test_change_of_what_a_loss_means_is_always_refused(
    store: Store, folder: Path, changes: dict[str, Any], key: str
) -> None:
    begun(store, folder)
    changed = prepared(folder, **changes)
    for accept_changes in (False, True):
        error = refusal(store, changed, accept_changes=accept_changes)
        assert f"  {key}: " in error.message
        assert key in error.remedy
        assert "give the study another name" in error.remedy
        assert "--accept-changes" not in error.remedy


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"weights": "random", "shape": "smollm2-360m"}},
        {"seed": 7},
        {"search_space": {**SPACE, "lora_rank": [4]}},
    ],
    ids=["model", "seed", "search space"],
)
def test_study_without_a_trial_may_change_in_everything(
    store: Store, folder: Path, changes: dict[str, Any]
) -> None:
    """A run that fails before its first trial says what to correct: the correction must run."""
    record = open_study(store, prepared(folder), accept_changes=False)
    corrected = open_study(store, prepared(folder, **changes), accept_changes=False)
    assert (corrected.id, corrected.revision) == (record.id, 2)
    assert open_study(store, prepared(folder, **changes), accept_changes=False).revision == 2


def test_changed_rows_are_always_refused(store: Store, folder: Path) -> None:
    before = begun(store, folder).data_hash
    write_rows(folder / "rows.jsonl", "two times")
    changed = prepared(folder)
    error = refusal(store, changed, accept_changes=True)
    assert f"dataset (rows): {before!r} -> {changed.rows.data_hash!r}" in error.message
    assert "give the study another name" in error.remedy


def test_acceptable_change_does_not_carry_another_with_it(store: Store, folder: Path) -> None:
    begun(store, folder)
    changed = prepared(folder, seed=7, search_space={**SPACE, "lora_rank": [8]})
    error = refusal(store, changed, accept_changes=True)
    assert "seed: 42 -> 7" in error.message
    assert "search_space.lora_rank: [8, 16] -> [8]" in error.message
    refused, _, _ = error.remedy.partition(" change what a loss means")
    assert refused == "seed, dataset (rows)", "the seed splits the rows anew"


LONGER = {**SPACE, "cutoff_len": [256, 512, 1024]}


def test_cutoff_that_moves_the_exam_is_refused_with_the_way_to_keep_it(
    store: Store, folder: Path
) -> None:
    begun(store, folder)
    error = refusal(store, prepared(folder, search_space=LONGER), accept_changes=True)
    assert "eval_cutoff_len: 512 -> 1024" in error.message
    assert "training.eval_cutoff_len: 512" in error.remedy


def test_longer_cutoff_is_accepted_once_the_exam_is_kept(store: Store, folder: Path) -> None:
    begun(store, folder)
    training = {"max_steps": 6, "eval_cutoff_len": 512}
    kept = prepared(folder, search_space=LONGER, training=training)
    assert "--accept-changes" in refusal(store, kept, accept_changes=False).remedy
    assert open_study(store, kept, accept_changes=True).revision == 2


def test_cutoff_below_the_exams_can_be_accepted(store: Store, folder: Path) -> None:
    begun(store, folder)
    changed = prepared(folder, search_space={**SPACE, "cutoff_len": [128, 512]})
    assert open_study(store, changed, accept_changes=True).revision == 2


def test_exam_of_another_cutoff_is_refused_however_it_is_written(
    store: Store, folder: Path
) -> None:
    begun(store, folder)
    changed = prepared(folder, training={"max_steps": 6, "eval_cutoff_len": 1024})
    assert "eval_cutoff_len: 512 -> 1024" in refusal(store, changed, accept_changes=True).message


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": {"hours": 9.0}},
        {"budget": {"trials": 300}},
        {"database": "elsewhere.db"},
        {"training": {"max_steps": 6, "eval_cutoff_len": 512}},
    ],
    ids=["hours", "trials", "database", "the evaluation cutoff, spelt out"],
)
def test_budget_and_the_like_are_no_change(
    store: Store, folder: Path, changes: dict[str, Any]
) -> None:
    record = open_study(store, prepared(folder), accept_changes=False)
    again = open_study(store, prepared(folder, **changes), accept_changes=False)
    assert (again.id, again.revision) == (record.id, 1)


def test_strategy_may_change_and_the_trials_of_each_are_known(store: Store, folder: Path) -> None:
    record = open_study(store, prepared(folder, strategy="tpe"), accept_changes=False)
    assert record.strategies == [[0, "tpe"]]
    for number in range(3):
        store.start_trial(record.id, number, {}, seed=1, data_hash="d1")
    for _ in range(2):
        record = open_study(store, prepared(folder, strategy="gp"), accept_changes=False)
        assert (record.revision, record.strategies) == (1, [[0, "tpe"], [3, "gp"]])
    assert [record.strategy_of(number) for number in (0, 2, 3, 9)] == ["tpe", "tpe", "gp", "gp"]


def test_study_of_an_older_version_was_searched_by_tpe(store: Store, folder: Path) -> None:
    record = open_study(store, prepared(folder), accept_changes=False)
    older = {k: v for k, v in record.spec.items() if k not in ("strategy", "strategies")}
    record = store.refresh_study(record.id, older)
    assert record.strategy_of(0) == "tpe"
    store.start_trial(record.id, 0, {}, seed=1, data_hash="d1")
    assert open_study(store, prepared(folder), accept_changes=False).strategy_of(0) == "tpe"


def test_study_moved_to_another_folder_is_the_same(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(SHAPE / "config.json", folder / "config.json")
    model = {"weights": "random", "shape": "config.json"}
    record = open_study(store, prepared(folder, model=model), accept_changes=False)
    moved = tmp_path / "moved"
    folder.rename(moved)
    again = open_study(store, prepared(moved, model=model), accept_changes=False)
    assert (again.id, again.revision) == (record.id, 1)
    assert Path(again.spec["dataset"]["train"]).is_file(), "exports find the rows"


def test_setting_that_an_older_record_does_not_know_is_no_change(
    store: Store, folder: Path
) -> None:
    now = prepared(folder)
    record = open_study(store, now, accept_changes=False)
    older = {key: value for key, value in record.spec["identity"].items() if key != "seed"}
    known = replace(record, spec={**record.spec, "identity": older})
    assert differences(known, now.study, now.rows.data_hash) == {}


def test_hyperparameter_that_an_older_study_did_not_search_is_a_change(
    store: Store, folder: Path
) -> None:
    record = open_study(store, prepared(folder), accept_changes=False)
    older = dict(record.spec["identity"])
    del older["search_space.lora_alpha"], older["search_space.lora_dropout"]
    record = replace(record, spec={**record.spec, "identity": older})
    same, new = prepared(folder), prepared(folder, search_space={**SPACE, "lora_dropout": [0, 0.1]})
    assert differences(record, same.study, record.data_hash) == {}
    assert differences(record, new.study, record.data_hash) == {
        "search_space.lora_dropout": (None, [0.0, 0.1])
    }
    ratios = prepared(folder, search_space={**SPACE, "lora_alpha": {"ratio": [1, 2]}})
    assert differences(record, ratios.study, record.data_hash) == {
        "search_space.lora_alpha.ratio": (None, [1, 2])
    }


def test_password_of_the_database_is_not_recorded(store: Store, folder: Path) -> None:
    url = "postgresql://me:hunter2@host/db?password=hunter3"
    record = open_study(store, prepared(folder, database=url), accept_changes=False)
    assert "hunter" not in json.dumps(record.spec)
    assert "me:***@host/db" in record.spec["database"]
