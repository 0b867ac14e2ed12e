"""`db check | backup | repair | move | export` on a real database with real faults."""

from __future__ import annotations

import csv
import errno
import gc
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result
from filelock import FileLock
from optuna.trial import TrialState

from vram_search.cli.main import cli
from vram_search.errors import VramSearchError
from vram_search.store import Store, open_store, sqlite_url
from vram_search.upkeep import check as checking
from vram_search.upkeep import export_tables

ADAPTERS = "search.db.files/demo/adapters"


def db(database: Path, *words: object) -> Result:
    """Runs `vram-search db ...` in this process; an error of ours is in `exception`."""
    arguments = ["db", *map(str, words), "--database", str(database)]
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None:
        assert isinstance(result.exception, (SystemExit, VramSearchError)), result.exception
    return result


def check(database: Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(db(database, "check", "--json").stdout)
    return answer


def execute(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def states(database: Path) -> list[TrialState]:
    study = optuna.load_study(storage=sqlite_url(database), study_name="demo")
    return [trial.state for trial in study.trials]


def test_sound_database_is_whole_and_unchanged_by_the_check(database: Path) -> None:
    before = database.read_bytes()
    done = db(database, "check")

    assert done.exit_code == 0, done.output
    assert "1 study, 5 trials" in done.output and "no faults found" in done.output
    assert database.read_bytes() == before
    assert check(database)["is_whole"] is True


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE trials SET state = 'COMPLETE' WHERE number = 1", "trial 1 of demo: recorded as"),
        ("UPDATE trial_values SET value = 9", "in Optuna's tables COMPLETE 9"),
        ("DELETE FROM trials WHERE number = 2", "in Optuna's tables missing"),
        ("DELETE FROM vs_trials WHERE number = 2", "recorded as not recorded"),
        ("UPDATE alembic_version SET version_num = 'v9'", "cannot be used: they have revision v9"),
        ("DROP TABLE trial_values", "cannot be used: table trial_values is missing"),
        ("UPDATE study_directions SET direction = 'MAXIMIZE'", "hold another study of the name"),
        ("UPDATE vs_trials SET measured = '{' WHERE number = 0", "damaged values: measured"),
        ("INSERT INTO vs_step_losses VALUES (99, 1, 1, 1, 1)", "1 row refers to a missing row"),
    ],
)
def test_fault_in_the_database_is_found(database: Path, statement: str, said: str) -> None:
    execute(database, statement)
    done = db(database, "check")
    assert done.exit_code == 1
    assert f"fault: {said}" in done.output or said in done.output


def test_trial_that_was_cut_off_is_a_note_and_no_fault(database: Path) -> None:
    execute(
        database,
        "UPDATE vs_trials SET outcome = NULL, stage = 'train' WHERE number = 4",
        "UPDATE trials SET state = 'RUNNING' WHERE number = 4",
    )
    done = db(database, "check")
    assert done.exit_code == 0
    assert "note: trial 4 of demo was cut off in train; the next run repeats it" in done.output


def test_adapters_of_killed_trials_are_found_and_removed(database: Path, tmp_path: Path) -> None:
    for name in ("trial-0003", "trial-0004.new", "trial-0002.old", "mine"):
        (tmp_path / ADAPTERS / name).mkdir()
    deleted = tmp_path / "search.db.files/deleted/adapters/trial-0000"
    deleted.mkdir(parents=True)

    assert len(check(database)["leftovers"]) == 4
    assert db(database, "repair", "--dry-run").exit_code == 0
    assert len(check(database)["leftovers"]) == 4, "a dry run changes nothing"

    assert db(database, "repair", "--yes").exit_code == 0
    kept = {path.name for path in (tmp_path / ADAPTERS).iterdir()}
    assert kept == {"trial-0000", "trial-0002", "mine"}
    assert not deleted.exists()
    assert check(database)["is_whole"]


def test_checkpoints_that_no_repetition_needs_are_removed(database: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "search.db.files/demo/checkpoints"
    for name in ("trial-0000", "trial-0004"):  # trial 4 was lost, and will be repeated
        (checkpoints / name).mkdir(parents=True)
    assert [Path(one["path"]).name for one in check(database)["leftovers"]] == ["trial-0000"]
    assert db(database, "repair", "--yes").exit_code == 0
    assert [path.name for path in checkpoints.iterdir()] == ["trial-0004"]


def test_repair_asks_first(database: Path, tmp_path: Path) -> None:
    (tmp_path / ADAPTERS / "trial-0004").mkdir()
    done = CliRunner().invoke(cli, ["db", "repair", "--database", str(database)], input="n\n")
    assert "step: delete 1 folder" in done.output
    assert isinstance(done.exception, VramSearchError)
    assert (tmp_path / ADAPTERS / "trial-0004").is_dir()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE alembic_version SET version_num = 'v9'",
        "DROP TABLE trial_values",
        "UPDATE trials SET state = 'COMPLETE' WHERE number = 1",
        "DELETE FROM trials WHERE number = 2",
        "DROP TABLE studies",
        "UPDATE trial_params SET distribution_json = '{'",
        "UPDATE study_directions SET direction = 'UP'",
        "UPDATE study_directions SET direction = 'MAXIMIZE'",
        "DELETE FROM study_directions",
    ],
)
def test_optunas_tables_are_written_again_from_the_record(database: Path, damage: str) -> None:
    execute(database, damage)
    record = [line for line in dump(database) if '"vs_trials"' in line]

    done = db(database, "repair", "--yes")

    assert done.exit_code == 0, done.output
    assert states(database)[:5] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    ]
    assert check(database)["is_whole"]
    assert [line for line in dump(database) if '"vs_trials"' in line] == record


def test_point_that_waits_survives_the_repair(database: Path) -> None:
    study = optuna.load_study(storage=sqlite_url(database), study_name="demo")
    study.enqueue_trial({"waits": 1})
    execute(database, "UPDATE trials SET state = 'COMPLETE' WHERE number = 1")
    assert db(database, "repair", "--yes").exit_code == 0
    study = optuna.load_study(storage=sqlite_url(database), study_name="demo")
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert {"waits": 1} in [trial.system_attrs["fixed_params"] for trial in waiting]


def test_missing_adapter_is_forgotten(database: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / ADAPTERS / "trial-0002")
    assert (
        "adapters that the record names are gone: trial 2 of demo" in db(database, "check").output
    )
    assert db(database, "repair", "--yes").exit_code == 0
    with closing(open_store(sqlite_url(database), create=False)) as store:
        trial = store.trial(1, 2)
    assert trial is not None and trial.adapter_path is None


def test_row_that_refers_to_a_missing_trial_is_deleted(database: Path) -> None:
    execute(database, "INSERT INTO vs_step_losses VALUES (99, 1, 1, 1, 1)")
    assert db(database, "repair", "--yes").exit_code == 0
    assert check(database)["foreign_keys"] == []


def test_damaged_values_stay_and_are_named_by_the_repair(database: Path) -> None:
    execute(database, "UPDATE vs_trials SET measured = '{' WHERE number = 0")
    done = db(database, "repair", "--yes")
    assert "nothing to repair" in done.output
    assert "remains: trial 0 of demo: damaged values: measured" in done.output


def test_running_study_is_neither_repaired_nor_moved(database: Path, tmp_path: Path) -> None:
    (tmp_path / ADAPTERS / "trial-0004").mkdir()
    with FileLock(tmp_path / "search.db.files/demo/run.lock"):
        for words in (["repair", "--yes"], ["move", tmp_path / "elsewhere.db"]):
            done = db(database, *words)
            assert "being run" in str(done.exception)
    assert database.exists() and (tmp_path / ADAPTERS / "trial-0004").is_dir()


def test_backup_beside_a_writer_is_a_whole_pair(database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("UPDATE vs_studies SET name = 'demo'")
        writer.commit()  # in the write-ahead log, which a plain copy would lack
        writer.execute("UPDATE vs_studies SET name = 'unfinished'")
        done = db(database, "backup", tmp_path / "to/copy.db")
    assert done.exit_code == 0, done.output
    copy = tmp_path / "to/copy.db"
    assert check(copy)["is_whole"]
    with closing(open_store(sqlite_url(copy), create=False)) as store:
        trial = store.trial(1, 0)
        assert trial is not None and trial.adapter_path is not None
        assert Path(trial.adapter_path).is_relative_to(tmp_path / "to")
        assert Path(trial.adapter_path).is_dir()


def test_backup_replaces_nothing(database: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    assert "exists already" in str(db(database, "backup", tmp_path / "copy.db").exception)
    assert (tmp_path / "copy.db").read_text() == "mine"


def test_moved_pair_keeps_adapters_and_record(database: Path, tmp_path: Path) -> None:
    rows = dump(database)
    done = db(database, "move", tmp_path / "new/night.db")
    assert done.exit_code == 0, done.output
    assert not database.exists() and not (tmp_path / "search.db.files").exists()
    moved = tmp_path / "new/night.db"
    assert dump(moved) == rows
    assert check(moved)["is_whole"]


def test_move_that_fails_leaves_the_pair_where_it_was(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.move

    def fail_for_the_file(source: Path, target: Path) -> object:
        if Path(source) == database:
            raise OSError(28, "No space left on device")
        return whole(source, target)

    monkeypatch.setattr(shutil, "move", fail_for_the_file)
    assert "No space left" in str(db(database, "move", tmp_path / "new/night.db").exception)
    assert check(database)["is_whole"]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_every_row_of_every_table_is_exported(database: Path, tmp_path: Path, form: str) -> None:
    execute(database, "UPDATE vs_trials SET measured = '{' WHERE number = 0")
    done = db(database, "export", tmp_path / "tables", "--format", form, "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)["rows"]
    assert counts["vs_trials"] == counts["trials"] == 5
    file = tmp_path / "tables" / f"vs_trials.{form}"
    if form == "jsonl":
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        assert rows[0]["hyperparameters"]["lora_alpha"] == 16
    else:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert json.loads(rows[0]["hyperparameters"])["lora_alpha"] == 16
    assert [row["outcome"] for row in rows] == ["complete", "pruned", "complete", "oom", "lost"]
    assert rows[0]["measured"] == "{", "a damaged value is kept as it is stored"


def test_export_masks_passwords_and_replaces_nothing(database: Path, tmp_path: Path) -> None:
    execute(database, "UPDATE vs_studies SET data_hash = 'postgresql://u:hunter2@h/d'")
    assert db(database, "export", tmp_path / "tables").exit_code == 0
    assert "hunter2" not in (tmp_path / "tables/vs_studies.jsonl").read_text("utf-8")
    assert "not an empty folder" in str(db(database, "export", tmp_path / "tables").exception)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_folder_of_files_that_may_not_be_read_is_one_fault(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(store: Store) -> list[Any]:
        raise PermissionError(13, "Permission denied", "search.db.files")

    monkeypatch.setattr(checking, "leftovers", refuse)
    done = db(database, "check")
    assert done.exit_code == 1
    said = "the folder of the files could not be checked: search.db.files: Permission denied"
    assert f"fault: {said}" in done.output and "1 study, 5 trials" in done.output
    assert f"remains: {said}" in db(database, "repair", "--dry-run").output


def test_export_that_finds_no_room_names_its_folder_and_leaves_nothing(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(file: Path, columns: list[str], rows: object) -> int:
        file.write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(export_tables._WRITERS, "jsonl", fill_the_disk)
    done = db(database, "export", tmp_path / "tables")
    assert f"{tmp_path / 'tables'} cannot be written: No space left" in str(done.exception)
    assert list((tmp_path / "tables").iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs to mount a file system")
def test_read_only_disk_is_checked_exported_and_backed_up(database: Path, tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        shutil.copytree(f"{database}.files", disk / "search.db.files")
        with closing(sqlite3.connect(database)) as writer:
            writer.execute("UPDATE vs_studies SET data_hash = 'd2'")
            writer.commit()
            for name in ("search.db", "search.db-wal"):  # the log holds a transaction
                shutil.copyfile(tmp_path / name, disk / name)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        file = disk / "search.db"
        assert db(file, "check").exit_code == 0
        assert db(file, "export", tmp_path / "tables").exit_code == 0
        assert '"d2"' in (tmp_path / "tables/vs_studies.jsonl").read_text("utf-8")
        assert db(file, "backup", tmp_path / "copy.db").exit_code == 0
        assert check(tmp_path / "copy.db")["is_whole"]
    finally:
        gc.collect()  # connections of attempts to write that failed
        subprocess.run(["umount", disk], check=True)
