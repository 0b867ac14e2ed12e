"""Two runs share one card through the queue: real processes, with tests/fake_trainer.py."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import fake_trainer
from tests.conftest import read_until, start_cli
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.answers.queue import add_study
from vram_search.spec import load_study
from vram_search.store import Store, StudyRecord
from vram_search.store.queue import STATES, Request, StudyQueue
from vram_search.store.workers import add_worker, end_worker
from vram_search.worker.queue_place import sweep

Cli = Callable[..., subprocess.CompletedProcess[str]]
WriteStudy = Callable[..., Path]
start = partial(start_cli, command=FAKE_TRAINER)


@pytest.fixture
def vram_search(vram_search_without_training: Cli) -> Cli:
    return vram_search_without_training


@pytest.fixture
def holder(
    store: Store, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[subprocess.Popen[str]]:
    """A run whose first trial never ends, so that it holds the card."""
    monkeypatch.setenv("HELD_TRIALS", "0")
    process = start("run", write_study(study="first"))
    monkeypatch.delenv("HELD_TRIALS")
    read_until(process, "trial 0:")
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def states(store: Store) -> dict[str, str]:
    return {entry.study: entry.state for entry in StudyQueue(store.engine).entries(STATES)}


def entry_id(store: Store, study: str) -> int:
    entry = StudyQueue(store.engine).latest_of(study)
    assert entry is not None
    return entry.id


def test_finished_run_is_in_the_queue_with_its_reason(
    store: Store, vram_search: Cli, write_study: WriteStudy
) -> None:
    assert vram_search("run", write_study(), "--trials", 1).returncode == 0
    done = vram_search("queue", "list", "--all", "--json")
    (entry,) = json.loads(done.stdout)["entries"]
    assert (entry["study"], entry["state"]) == ("tiny", "finished")
    assert entry["message"] == "1 trial is finished"


def test_second_study_waits_and_names_who_holds_the_card_unless_it_runs_beside(
    store: Store, holder: subprocess.Popen[str], vram_search: Cli, write_study: WriteStudy
) -> None:
    done = vram_search("run", write_study(study="beside"), "--trials", 1, "--beside")
    assert done.returncode == 0, done.stdout
    assert states(store) == {"first": "running", "beside": "finished"}

    second = start("run", write_study(study="second"), "--trials", 1)
    said = read_until(second, "holds the card")
    assert "study first holds the card since " in said
    assert f"(process {holder.pid})" in said
    assert states(store) == {"first": "running", "beside": "finished", "second": "queued"}
    holder.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    assert states(store)["first"] == "cancelled" and states(store)["second"] == "finished"


def test_killed_holder_frees_the_card(
    store: Store, holder: subprocess.Popen[str], vram_search: Cli, write_study: WriteStudy
) -> None:
    holder.kill()
    holder.wait()
    done = vram_search("run", write_study(study="second"), "--trials", 1)
    assert done.returncode == 0, done.stdout
    assert states(store) == {"first": "failed", "second": "finished"}


def test_cancelled_run_ends_as_if_interrupted(
    store: Store, holder: subprocess.Popen[str], vram_search: Cli
) -> None:
    done = vram_search("queue", "remove", entry_id(store, "first"))
    assert "asked to cancel" in done.stdout, done.stdout
    output, _ = holder.communicate(timeout=60)
    assert holder.returncode == 130, output
    assert states(store) == {"first": "cancelled"}
    study = store.study("first")
    assert study is not None
    assert [trial.outcome for trial in store.trials(study.id)] == ["lost"]


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("stop", "finished")])
def test_running_trial_finishes_before_a_pause_or_a_stop(
    store: Store,
    write_study: WriteStudy,
    monkeypatch: pytest.MonkeyPatch,
    vram_search: Cli,
    verb: Request,
    state: str,
) -> None:
    save = fake_trainer.save_adapter

    def ask_meanwhile(folder: Path) -> None:
        StudyQueue(store.engine).ask(entry_id(store, "tiny"), verb)
        save(folder)

    monkeypatch.setattr(fake_trainer, "save_adapter", ask_meanwhile)
    done = vram_search("run", write_study(budget={"trials": 50}))
    assert done.returncode == 0, done.stdout
    assert states(store) == {"tiny": state}
    study = store.study("tiny")
    assert study is not None
    assert [trial.outcome for trial in store.trials(study.id)] == ["complete"]


def test_detached_study_is_queued_for_the_service_and_keeps_its_settings(
    store: Store, vram_search: Cli, write_study: WriteStudy, tmp_path: Path
) -> None:
    done = vram_search("run", write_study(seed=7), "--detach", "--trials", 2, "--hours", 1.5)
    assert done.returncode == 0, done.stdout
    assert "no service is running" in done.stdout
    (entry,) = StudyQueue(store.engine).entries()
    assert (entry.is_detached, entry.state, entry.trials) == (True, "queued", 2)
    assert (entry.hours, entry.until) == (1.5, None), "the duration begins with the run"
    assert "for 1.5 h" in done.stdout
    file = tmp_path / "elsewhere" / "again.yaml"
    file.parent.mkdir()
    file.write_text(entry.study_file)
    assert load_study(file) == load_study(tmp_path / "study.yaml")


def test_queue_is_ordered_and_emptied_on_the_command_line(
    store: Store, vram_search: Cli, write_study: WriteStudy
) -> None:
    for name in ("a", "b"):
        done = vram_search("queue", "add", write_study(study=name), "--not-before", "03:00")
        assert done.returncode == 0, done.stdout
    moved = vram_search("queue", "move", entry_id(store, "b"), 1, "--json")
    assert [entry["study"] for entry in json.loads(moved.stdout)["entries"]] == ["b", "a"]
    assert [entry["place"] for entry in json.loads(moved.stdout)["entries"]] == [1, 2]
    paused = vram_search("queue", "pause", entry_id(store, "a"))
    assert "paused" in paused.stdout and paused.stdout.startswith("  ID  state      study\n")
    for name in ("a", "b"):
        vram_search("queue", "remove", entry_id(store, name))
    assert vram_search("queue").stdout == "the queue is empty\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pause", 9), "the queue has no entry 9"),
        (("add", "demo", "--until", "soon"), "--until 'soon' is not a time"),
    ],
)
def test_wrong_input_is_one_message(
    store: Store, vram_search: Cli, words: tuple[Any, ...], message: str
) -> None:
    done = vram_search("queue", *words)
    assert done.returncode == 2
    assert message in done.stdout


@pytest.mark.parametrize(("attempts", "state"), [(1, "queued"), (3, "failed")])
def test_study_of_the_service_is_started_again_after_its_process_died(
    store: Store, url: str, write_study: WriteStudy, attempts: int, state: str
) -> None:
    queue = StudyQueue(store.engine)
    entry = add_study(store, load_study(write_study()))
    owner = {"host": platform.node(), "pid": os.getpid(), "attempts": attempts}
    assert queue.claim(entry.id, lambda entries: True, device="cpu", **owner)
    sweep(queue, url)
    assert states(store) == {"tiny": state}


def test_entry_of_another_machine_with_this_name_lives_as_long_as_its_lease(
    store: Store, study: StudyRecord, url: str
) -> None:
    queue = StudyQueue(store.engine)
    worker_id = add_worker(store.engine, study.id, platform.node(), 7)
    owner: dict[str, Any] = {"host": platform.node(), "pid": 7, "worker_id": worker_id}
    queue.add(study.name, "", is_detached=False, **owner)
    sweep(queue, url)
    assert states(store) == {"demo": "queued"}
    end_worker(store.engine, worker_id)
    sweep(queue, url)
    assert states(store) == {"demo": "cancelled"}
