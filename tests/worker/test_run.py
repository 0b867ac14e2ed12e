"""A whole search from the command line: real subprocesses and real SQLite.

Two tests train a tiny real model. In the others tests/fake_trainer.py stands for the training.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import read_until, run_cli, start_cli
from tests.factories import make_point
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search import store as store_room
from vram_search.errors import VramSearchError
from vram_search.estimate.margin import conformal_margin
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.spec import Hyperparameters
from vram_search.spec.load import load_study
from vram_search.store import Store, open_store, sqlite_url
from vram_search.store.database import open_database
from vram_search.store.location import database_url
from vram_search.worker.load_base import ready_after_kills
from vram_search.worker.process import TrainingDiedError

Cli = Callable[..., subprocess.CompletedProcess[str]]
WriteStudy = Callable[..., Path]
Hold = Callable[..., None]


@pytest.fixture
def opened(home: Path) -> Iterator[Callable[[], Store]]:
    """Opens the test's database."""
    stores: list[Store] = []

    def open_() -> Store:
        stores.append(open_store(sqlite_url(home / "vram-search.db"), create=False))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def vram_search(vram_search_without_training: Cli) -> Cli:
    """Most tests here are about the search, and train nothing."""
    return vram_search_without_training


@pytest.fixture
def vram_search_that_trains(home: Path) -> Cli:
    return run_cli


start = partial(start_cli, command=FAKE_TRAINER)


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`hold(0, 1)`: these trials never end by themselves; see tests/fake_trainer.py."""

    def hold_(*numbers: int) -> None:
        monkeypatch.setenv("HELD_TRIALS", ",".join(map(str, numbers)))

    return hold_


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def test_search_ends_with_winner_table_and_export(
    vram_search_that_trains: Cli, write_study: WriteStudy, opened: Callable[[], Store], home: Path
) -> None:
    done = vram_search_that_trains("run", write_study())

    assert done.returncode == 0, done.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    trials = store.trials(study.id)
    assert len(trials) == 3
    best = store.top_trials(study.id, limit=1)[0]
    assert f"best of study tiny: trial {best.number}" in done.stdout
    assert "predicted for NVIDIA GeForce RTX 5060 Ti 16 GB" in done.stdout
    assert best.measured is None and best.predicted is not None
    assert 20 < best.predicted["longest_tokens"] < 200
    assert 20 < best.predicted["longest_eval_tokens"] < 200
    evaluations = store.evaluations(best.id)
    assert best.eval_loss == min(e.eval_loss for e in evaluations if e.eval_loss is not None)
    assert len(store.step_losses(best.id)) == 6
    assert best.versions is not None and best.versions["torch"]
    assert best.versions["compute_dtype"] in ("float32", "bfloat16")
    assert set(best.seconds or {}) >= {"plan", "probe", "train", "eval"}
    assert best.adapter_path is not None
    assert (Path(best.adapter_path) / "adapter_model.safetensors").is_file()


def test_finished_study_is_continued_without_running_anything_twice(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    study_file = write_study(budget={"trials": 2})
    first = vram_search("run", study_file)
    again = vram_search("run", study_file)
    more = vram_search("run", study_file, "--trials", 3)

    assert first.returncode == again.returncode == more.returncode == 0, more.stdout
    assert "continuing study tiny: 2 trials found" in again.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    numbers = [trial.number for trial in store.trials(study.id)]
    assert len(numbers) == 3 and len(set(numbers)) == 3


def test_second_run_is_refused_and_ctrl_c_loses_the_trial_which_the_next_run_repeats(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store], home: Path, hold: Hold
) -> None:
    hold(0)
    study_file = write_study(training={"max_steps": 60, "rungs": [0.5]}, budget={"trials": 1})
    process = start("run", study_file)
    read_until(process, "probe passed")
    second = vram_search("run", study_file)
    assert second.returncode == 2
    assert "is being run by another process" in second.stdout

    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)

    assert process.returncode == 130, rest
    assert "no trial is complete yet" in rest
    store = opened()
    study = store.study("tiny")
    assert study is not None
    (lost,) = store.trials(study.id)
    assert lost.outcome == "lost"
    assert (lost.error or {})["message"] == "interrupted"

    hold()
    assert vram_search("run", study_file).returncode == 0
    repeated = store.trials(study.id)[-1]
    assert repeated.retry_of == lost.number
    assert repeated.hyperparameters == lost.hyperparameters


def test_ctrl_c_while_a_trial_is_planned_loses_it_and_the_next_run_repeats_it(
    vram_search: Cli,
    write_study: WriteStudy,
    opened: Callable[[], Store],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_file = write_study(budget={"trials": 1})

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as planning:
        planning.setattr("vram_search.worker.trial.settle_plan", interrupt)
        stopped = vram_search("run", study_file)

    assert stopped.returncode == 130, stopped.stdout
    assert "1 lost" in stopped.stdout and "running" not in stopped.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    assert [trial.outcome for trial in store.trials(study.id)] == ["lost"]

    assert vram_search("run", study_file).returncode == 0
    assert [trial.retry_of for trial in store.trials(study.id)] == [None, 0]


def test_killed_training_process_costs_one_retry_and_no_finished_trial(
    write_study: WriteStudy, opened: Callable[[], Store], home: Path, hold: Hold
) -> None:
    hold(1)
    process = start(
        "run", write_study(training={"max_steps": 60, "rungs": []}, budget={"trials": 2})
    )
    read_until(process, "trial 0: complete")
    read_until(process, "probe passed")
    (trainer,) = children(process.pid)
    os.kill(trainer, signal.SIGKILL)
    rest, _ = process.communicate(timeout=120)

    assert process.returncode == 0, rest
    store = opened()
    study = store.study("tiny")
    assert study is not None
    outcomes = [(trial.outcome, trial.retry_of) for trial in store.trials(study.id)]
    assert outcomes[0] == ("complete", None)
    assert ("lost", None) in outcomes
    lost = next(trial for trial in store.trials(study.id) if trial.outcome == "lost")
    assert "signal 9" in (lost.error or {})["message"]
    assert ("complete", lost.number) in outcomes


def test_killed_run_leaves_no_orphan_and_is_reconciled(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store], home: Path, hold: Hold
) -> None:
    hold(1)
    study_file = write_study(training={"max_steps": 60, "rungs": []}, budget={"trials": 2})
    process = start("run", study_file)
    read_until(process, "trial 0: complete")
    read_until(process, "probe passed")
    (trainer,) = children(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{trainer}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{trainer}").exists(), "the training process outlived its run"

    again = vram_search("run", study_file)

    assert again.returncode == 0, again.stdout
    assert "recorded as lost" in again.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    trials = store.trials(study.id)
    complete = [trial for trial in trials if trial.outcome == "complete"]
    points = [json.dumps(trial.hyperparameters, sort_keys=True) for trial in complete]
    assert len(complete) == 2 and len(set(points)) == 2
    assert [trial.outcome for trial in trials].count("lost") == 1


@pytest.mark.slow  # tests/worker/test_resident.py and test_trial.py cover its parts
def test_out_of_memory_is_pruned_and_the_search_goes_on_in_a_new_process(
    write_study: WriteStudy, opened: Callable[[], Store], home: Path, tmp_path: Path
) -> None:
    """The kernel refuses memory to the training process, as a card does."""
    import resource

    study_file = write_study(
        search_space={
            "cutoff_len": 128,
            "batch_size": 32,
            "learning_rate": {"min": 1e-4, "max": 1e-2},
        },
        training={"max_steps": 4, "rungs": []},
        plan={"per_device_train_batch_size": 32, "gradient_checkpointing": False},
        budget={"trials": 3},
    )
    config = json.loads((tmp_path / "shape" / "config.json").read_text())
    (tmp_path / "shape" / "config.json").write_text(json.dumps({**config, "vocab_size": 32768}))
    process = start_cli("run", study_file)
    read_until(process, "trial 0: complete")
    (trainer,) = children(process.pid)
    used = int(Path(f"/proc/{trainer}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + 200 * 2**20  # a batch of 32 x 128 tokens needs 512 MiB of logits alone
    resource.prlimit(trainer, resource.RLIMIT_AS, (limit, limit))
    rest, _ = process.communicate(timeout=200)

    assert process.returncode == 0, rest
    store = opened()
    study = store.study("tiny")
    assert study is not None
    trials = store.trials(study.id)
    assert [trial.outcome for trial in trials] == ["complete", "oom", "complete"], rest
    error = trials[1].error or {}
    assert error["stage"] == "train" and error["requested_bytes"] > 2**20
    with closing(sqlite3.connect(home / "vram-search.db")) as connection:
        (state,) = connection.execute("SELECT state FROM trials WHERE number = 1").fetchone()
        (excess,) = connection.execute(
            "SELECT value_json FROM trial_system_attributes a JOIN trials t USING (trial_id) "
            "WHERE t.number = 1 AND a.key LIKE '%required_bytes%'"
        ).fetchone()
    assert state == "PRUNED" and float(excess) > 0


def test_strategy_on_the_command_line_beats_the_study_file_and_a_wrong_one_is_refused(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    study_file = write_study(strategy="gp")
    refused = vram_search("run", study_file, "--strategy", "grid")
    assert refused.returncode == 2
    assert "'grid' is not one of 'gp', 'tpe', 'random'" in refused.stdout
    assert vram_search("run", study_file, "--strategy", "tpe", "--trials", 1).returncode == 0
    study = opened().study("tiny")
    assert study is not None and study.strategy_of(0) == "tpe"


def test_changed_study_is_refused_with_the_difference_shown(
    vram_search: Cli, write_study: WriteStudy
) -> None:
    assert vram_search("run", write_study(budget={"trials": 1})).returncode == 0
    changed = write_study(budget={"trials": 2})
    option = "search_space.lora_rank=[4,8,16]"

    refused = vram_search("run", changed, "--set", option)
    accepted = vram_search("run", changed, "--set", option, "--accept-changes")

    assert refused.returncode == 2
    assert "search_space.lora_rank: [4, 8] -> [4, 8, 16]" in refused.stdout
    assert accepted.returncode == 0, accepted.stdout


def test_rows_longer_than_every_cutoff_are_cut_with_a_note(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    space = {"cutoff_len": 32, "learning_rate": 1e-3}
    done = vram_search("run", write_study(search_space=space, budget={"trials": 1}))

    assert done.returncode == 0, done.stdout
    assert "all of which are cut in every trial (the largest cutoff_len is 32)" in done.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    (trial,) = store.trials(study.id)
    assert trial.outcome == "complete"


def test_trial_that_fits_no_plan_is_infeasible_and_costs_no_training(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    study_file = write_study(
        card={"name": "toy", "total_bytes": "25 MiB"},
        search_space={
            "lora_target": "all",
            "lora_rank": [8, 896, 960, 1024],
            "cutoff_len": 96,
            "learning_rate": {"min": 1e-4, "max": 1e-2},
        },
        training={"max_steps": 6, "rungs": [0.5], "eval_cutoff_len": 96},
        budget={"trials": 1},
        strategy="tpe",  # `gp` proposes what fits
        enqueue_priors=False,
    )
    done = vram_search("run", study_file)

    store = opened()
    study = store.study("tiny")
    assert study is not None
    trials = store.trials(study.id)
    infeasible = [trial for trial in trials if trial.outcome == "infeasible"]
    assert done.returncode == 0, done.stdout
    assert infeasible, [trial.outcome for trial in trials]
    assert set(infeasible[0].seconds or {}) == {"plan"}
    assert (infeasible[0].predicted or {})["excess"] > 0
    assert (infeasible[0].predicted or {})["margin"] == conformal_margin([])
    assert "MiB + margin 0.7 % > VRAM limit 25 MiB" in (infeasible[0].error or {})["message"]


def test_space_that_holds_nothing_for_the_card_is_given_up_after_three_trials(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    study_file = write_study(
        card={"name": "toy", "total_bytes": "25 MiB"},
        search_space={"lora_target": "all", "lora_rank": 1024, "cutoff_len": 96},
        training={"max_steps": 6, "rungs": [0.5], "eval_cutoff_len": 96},
        budget={"trials": 1},
    )
    done = vram_search("run", study_file)

    store = opened()
    study = store.study("tiny")
    assert study is not None
    assert done.returncode == 1, done.stdout
    assert "3 proposals in a row do not fit toy" in done.stdout
    assert [trial.outcome for trial in store.trials(study.id)] == ["infeasible"] * 3


def test_bytes_are_predicted_for_the_rows_there_are_and_needless_cutoffs_are_named(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    space = {"cutoff_len": [1024, 2048], "learning_rate": 1e-3}
    done = vram_search("run", write_study(search_space=space, budget={"trials": 1}))

    assert done.returncode == 0, done.stdout
    assert "no training row is cut at 1024 tokens: cutoff_len 2048 would train the same" in (
        done.stdout
    )
    study = opened().study("tiny")
    assert study is not None
    predicted = opened().trials(study.id)[0].predicted or {}
    assert 20 < predicted["longest_tokens"] < 200
    assert 20 < predicted["longest_eval_tokens"] < 200


def too_large(learning_rate: float) -> Hyperparameters:
    return make_point(
        optim="adamw_torch_fused",
        lora_rank=1024,
        cutoff_len=96,
        batch_size=4,
        learning_rate=learning_rate,
    )


def test_points_that_wait_in_line_and_do_not_fit_do_not_end_the_search(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    study_file = write_study(
        card={"name": "toy", "total_bytes": "25 MiB"},
        search_space={
            "optim": "adamw_torch_fused",
            "lora_target": "all",
            "lora_rank": [8, 1024],
            "cutoff_len": 96,
            "batch_size": 4,
        },
        training={"max_steps": 6, "rungs": [0.5], "eval_cutoff_len": 96},
        budget={"trials": 1},
    )
    study = load_study(study_file)
    url = database_url(study.database)
    open_store(url, create=True).close()
    problem = Problem(study.search_space, rungs=study.training.rungs)
    with open_storage(url) as storage:
        search = Search(storage, study.study, 1, problem, STRATEGIES["gp"], study.seed)
        for learning_rate in (1e-4, 2e-4, 3e-4, 4e-4):
            search.enqueue(too_large(learning_rate))

    done = vram_search("run", study_file)

    assert done.returncode == 0, done.stdout
    record = opened().study(study.study)
    assert record is not None
    outcomes = [trial.outcome for trial in opened().trials(record.id)]
    assert outcomes == ["infeasible"] * 4 + ["complete"]


def test_locked_database_is_refused_with_exit_2_and_nothing_is_lost(
    vram_search: Cli,
    write_study: WriteStudy,
    opened: Callable[[], Store],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study_file = write_study(budget={"trials": 1})
    assert vram_search("run", study_file).returncode == 0
    monkeypatch.setattr(store_room, "open_database", partial(open_database, busy_seconds=0.2))
    with closing(sqlite3.connect(home / "vram-search.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = vram_search("run", study_file, "--trials", 2)
        other.execute("ROLLBACK")

    assert refused.returncode == 2, refused.stdout
    assert "locked" in refused.stdout
    store = opened()
    study = store.study("tiny")
    assert study is not None
    assert [trial.outcome for trial in store.trials(study.id)] == ["complete"]


@pytest.mark.slow  # tests/store/test_store_sharing.py has a full disk, and a lock ends a run above
@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX")
def test_disk_that_fills_up_ends_the_run_in_one_message_and_loses_nothing(
    vram_search: Cli, write_study: WriteStudy, opened: Callable[[], Store]
) -> None:
    """A limit on the size of files stands in for the disk; Optuna's tables meet it first."""
    import resource

    study_file = write_study(budget={"trials": 1})
    assert vram_search("run", study_file).returncode == 0
    full = run_cli(
        *("run", study_file, "--trials", "9"),
        command=FAKE_TRAINER,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert full.returncode == 2, full.stdout
    assert "Traceback" not in full.stdout and full.stdout.count("error: ") == 1
    assert "disk I/O error\nremedy: check the disk and its free space" in full.stdout

    assert vram_search("run", study_file, "--trials", 2).returncode == 0
    store = opened()
    study = store.study("tiny")
    assert study is not None
    finished = [trial for trial in store.trials(study.id) if trial.outcome != "lost"]
    assert len(finished) == 2


def test_search_goes_on_when_nobody_reads_its_output(
    write_study: WriteStudy, opened: Callable[[], Store], home: Path
) -> None:
    """`vram-search run ... | head -1`."""
    process = start("run", write_study(budget={"trials": 2}))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    store = opened()
    study = store.study("tiny")
    assert study is not None
    assert len(store.trials(study.id)) == 2
    (log,) = (home / "vram-search.db.files" / "tiny" / "logs").glob("*.log")
    assert "trial 1: " in log.read_text(encoding="utf-8")


def test_process_killed_while_the_first_model_loads_is_started_again() -> None:
    answers: list[Any] = [TrainingDiedError("was killed", was_killed=True), "ready"]
    notes: list[str] = []

    def ready() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    trainer = SimpleNamespace(ready=ready, log=Path("nowhere"))
    context: Any = SimpleNamespace(trainer=trainer, listener=SimpleNamespace(note=notes.append))
    found: Any = ready_after_kills(context)
    assert found == "ready"
    assert notes == ["was killed; it is started again"]
    answers[:] = [TrainingDiedError("ended with code 1"), "ready"]
    with pytest.raises(VramSearchError, match="could not be loaded"):
        ready_after_kills(context)
