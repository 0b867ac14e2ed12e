"""`vram-search import`: into a study of its own, once, whole or not at all."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from tests.factories import NEWER_COLUMNS, NEWER_EVALUATION_COLUMNS, NEWER_TABLES
from tests.importing.conftest import (
    ADAPTER,
    RESULTS,
    TRAINING_ARGS,
    Cli,
    WriteRun,
    trainer_log,
    trainer_state,
)
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store.records import UNKNOWN_DATA, UNKNOWN_SEED

NOTHING_ELSE: dict[str, Any] = {"updated": [], "predictions": []}


@pytest.fixture
def run(write_run: WriteRun) -> Path:
    files = {"trainer_log.jsonl": trainer_log(), "adapter_config.json": ADAPTER}
    return write_run("run", files)


def opened(home: Path) -> Store:
    return open_store(sqlite_url(home / "vram-search.db"), create=False)


def test_imported_run_is_recorded_with_its_curves(cli: Cli, home: Path, run: Path) -> None:
    assert (
        cli.imported(run) == {"study": "imported", "added": [0], "already_there": 0} | NOTHING_ELSE
    )
    store = opened(home)
    study = store.study("imported")
    assert study is not None and study.is_imported
    assert study.model == {"name": "Qwen/Qwen2.5-3B-Instruct"}
    (trial,) = store.top_trials(study.id)
    assert (trial.eval_loss, trial.eval_loss_step, trial.finished_at) == (1.1973, 50, None)
    assert (trial.seed, trial.data_hash) == (UNKNOWN_SEED, UNKNOWN_DATA)
    assert trial.provenance is not None and trial.provenance["path"] == str(run)
    assert len(store.step_losses(trial.id)) == 5
    assert [row.eval_loss for row in store.evaluations(trial.id)] == [1.2841, 1.1973]


def test_importing_twice_adds_nothing_even_from_another_place(
    cli: Cli, home: Path, run: Path, tmp_path: Path
) -> None:
    cli.imported(run)
    study = opened(home).study("imported")
    moved = run.rename(tmp_path / "moved")
    assert (
        cli.imported(moved) == {"study": "imported", "added": [], "already_there": 1} | NOTHING_ELSE
    )
    assert opened(home).study("imported") == study


def test_later_import_adds_the_new_runs_alone(cli: Cli, home: Path, tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("run,outcome,model_name_or_path\na,oom,one\n")
    cli.imported(table, "--study", "byhand")
    table.write_text("run,outcome,model_name_or_path\nb,complete,two\na,oom,one\n")
    answer = cli.imported(table, "--study", "byhand")
    assert answer == {"study": "byhand", "added": [1], "already_there": 1} | NOTHING_ELSE
    study = opened(home).study("byhand")
    assert study is not None and study.model == {"name": "several models"}


@pytest.fixture
def dpo_and_sft(write_run: WriteRun, tmp_path: Path) -> Path:
    """Two runs; the preference training has the lower loss."""
    for name, stage, loss in (("a", "dpo", 0.3), ("b", "sft", 1.5)):
        yaml = TRAINING_ARGS.replace("stage: sft", f"stage: {stage}")
        write_run(name, {"a.yaml": yaml, "all_results.json": RESULTS | {"eval_loss": loss}})
    return tmp_path


def test_preference_training_is_listed_and_never_best(cli: Cli, dpo_and_sft: Path) -> None:
    cli.imported(dpo_and_sft)
    assert json.loads(cli("best", "--json")[1])["trial"]["eval_loss"] == 1.5
    top = json.loads(cli("top", "--json")[1])
    assert ([trial["number"] for trial in top["trials"]], top["not_ranked"]) == ([1], {"dpo": 1})
    assert "dpo" in cli("top", "--all")[1]
    assert "losses do not compare" in cli("compare", "0", "1")[1]
    assert "dpo" in cli("show", "0")[1]
    assert "ranked nowhere" in cli("why", "0")[1]


def test_study_of_preference_trainings_alone_has_no_best(cli: Cli, dpo_and_sft: Path) -> None:
    cli.imported(dpo_and_sft / "a")
    code, _, err = cli("best")
    assert code == 2
    assert "no supervised LoRA training that is complete; its complete runs are dpo" in err


def test_importing_again_updates_what_an_older_version_read(
    cli: Cli, home: Path, dpo_and_sft: Path
) -> None:
    cli.imported(dpo_and_sft)
    with closing(sqlite3.connect(home / "vram-search.db")) as connection, connection:
        connection.execute("UPDATE vs_trials SET other_training = NULL, outcome = 'lost'")
    assert json.loads(cli("top", "--json")[1])["trials"] == []
    assert cli.imported(dpo_and_sft)["updated"] == [0, 1]
    assert json.loads(cli("top", "--json")[1])["not_ranked"] == {"dpo": 1}
    assert cli.imported(dpo_and_sft)["updated"] == []


def test_one_malformed_run_of_a_folder_keeps_all_out(
    cli: Cli, home: Path, run: Path, write_run: WriteRun, tmp_path: Path
) -> None:
    write_run("run-2", {"trainer_state.json": "{"})
    code, out, err = cli("import", tmp_path)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1 and "run-2" in err and "remedy: " in err
    assert not home.exists()


def test_failure_of_the_database_leaves_no_half_import(
    cli: Cli, home: Path, run: Path, write_run: WriteRun, tmp_path: Path
) -> None:
    cli.imported(run)
    with closing(sqlite3.connect(home / "vram-search.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON vs_evaluations WHEN NEW.step = 20 "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    state = trainer_state()
    state["log_history"].append({"step": 20, "eval_loss": 1.0})
    write_run("run-1", {"adapter_config.json": ADAPTER})
    write_run("run-2", {"trainer_state.json": state})
    with pytest.raises(IntegrityError, match="full"):
        cli("import", tmp_path)
    store = opened(home)
    study = store.study("imported")
    assert study is not None
    assert [trial.number for trial in store.trials(study.id)] == [0]


def test_database_of_before_imports_is_migrated_with_its_rows(
    cli: Cli, home: Path, run: Path
) -> None:
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    search = store.create_study("night", {"seed": 1}, "d1", {"name": "card"}, {"name": "model"})
    store.start_trial(search.id, 0, {"lora_rank": 8}, seed=1, data_hash="d1")
    before = store.trials(search.id)
    store.close()
    with closing(sqlite3.connect(home / "vram-search.db")) as connection, connection:
        for table in NEWER_TABLES:
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DROP INDEX vs_trials_study_fingerprint")
        for column in ("fingerprint", "provenance", "other_training", *NEWER_COLUMNS):
            connection.execute(f"ALTER TABLE vs_trials DROP COLUMN {column}")
        for column in NEWER_EVALUATION_COLUMNS:
            connection.execute(f"ALTER TABLE vs_evaluations DROP COLUMN {column}")
        connection.execute("UPDATE vram_search_alembic_version SET version_num = '0001'")
    cli.imported(run)
    assert opened(home).trials(search.id) == before


def test_runs_never_mix_into_a_search(cli: Cli, home: Path, run: Path) -> None:
    store = open_store(sqlite_url(home / "vram-search.db"), create=True)
    search = store.create_study("night", {"seed": 1}, "d1", {"name": "card"}, {"name": "model"})
    store.close()
    code, _, err = cli("import", run, "--study", "night")
    assert code == 2
    assert "study night is a search" in err and "--study" in err
    store = opened(home)
    assert store.trials(search.id) == []
    assert store.study("night") == search


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "n" * 65])
def test_name_that_is_none_is_refused(cli: Cli, home: Path, run: Path, name: str) -> None:
    code, _, err = cli("import", run, f"--study={name}")
    assert code == 2 and "--study" in err
    assert not home.exists()


def test_answer_says_what_was_added(cli: Cli, run: Path) -> None:
    code, out, err = cli("import", run)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "study imported: 1 added, 0 there already"
