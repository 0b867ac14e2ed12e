"""Several trials at once on one card: companions of a run, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from tests.conftest import read_until, start_cli
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.errors import FaultyFileError
from vram_search.spec import load_study
from vram_search.store import Store, TrialRecord, open_store
from vram_search.store.workers import workers_of
from vram_search.worker import companions
from vram_search.worker.companions import STOP, STOPPED, RunThatStartedThis
from vram_search.worker.parallel import parallel_trials, predicted_at_once
from vram_search.worker.prepare import prepare
from vram_search.worker.stop_rule import StopRule

WriteStudy = Callable[..., Path]
start = partial(start_cli, command=FAKE_TRAINER)


def test_companion_that_is_told_to_stop_finishes_its_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted = threading.Event()
    monkeypatch.setattr(companions, "interrupt_main_thread", interrupted.set)
    run = RunThatStartedThis(StringIO(STOP))
    assert interrupted.wait(10), "the end of the input interrupts it"
    assert run.why_over() == STOPPED


def test_companion_of_a_run_that_was_killed_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = threading.Event()
    monkeypatch.setattr(companions, "interrupt_main_thread", interrupted.set)
    run = RunThatStartedThis(StringIO(""))
    assert interrupted.wait(10)
    assert run.why_over() == ""


@pytest.mark.parametrize("value", [0, 9, 1.5, "all", True])
def test_number_of_parallel_trials_is_checked(write_study: WriteStudy, value: object) -> None:
    with pytest.raises(FaultyFileError, match="parallel_trials"):
        load_study(write_study(parallel_trials=value))


def test_changed_number_of_parallel_trials_is_the_same_study(write_study: WriteStudy) -> None:
    one = load_study(write_study()).identity()
    assert load_study(write_study(parallel_trials="auto")).identity() == one


def test_auto_runs_one_trial_without_a_gpu(write_study: WriteStudy) -> None:
    notes: list[str] = []
    prepared = prepare(load_study(write_study(parallel_trials="auto")), notes.append)
    assert parallel_trials(prepared, [], notes.append) == 1
    assert "one trial at a time" in notes[-1]


SMALL_SPACE = {
    "optim": ["adamw_8bit"],
    "lora_target": ["all"],
    "lora_rank": [8],
    "cutoff_len": [512],
    "batch_size": [4],
}


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("rtx-5060-ti-16gb", ["auto runs 1 on this card", "2 at once 0.60, 4 at once 0.42"]),
        ("h200-141gb", ["auto runs 4 on this card", "2 at once 1.52, 4 at once 2.30"]),
    ],
)
def test_gain_of_trials_at_once_is_predicted_for_the_studys_card(
    write_study: WriteStudy, card: str, words: list[str]
) -> None:
    model = {"weights": "random", "shape": "qwen2.5-0.5b"}
    file = write_study(model=model, card=card, search_space=SMALL_SPACE, parallel_trials="auto")
    found = predicted_at_once(prepare(load_study(file), print))
    assert found is not None
    said = found.words
    assert all(word in said for word in words), said
    assert f"auto runs {found.auto} " in said and sorted(found.gains) == [2, 4]


def test_rest_of_a_stop_rule_is_handed_to_the_companions() -> None:
    rule = StopRule(9, None, time.monotonic() + 3600)
    assert rule.options[:2] == ["--trials", "9"]
    assert float(rule.options[3]) == pytest.approx(1.0, abs=0.01)
    assert StopRule(None).options == []


def wait_for_workers(store: Store, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(workers_of(store.engine)) != count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers_of(store.engine)) == count


def trials_of(url: str) -> list[TrialRecord]:
    """Reads the study's trials."""
    with closing(open_store(url, create=False)) as store:
        study = store.study("tiny")
        assert study is not None
        return store.trials(study.id)


@pytest.mark.slow
def test_two_trials_run_at_once_and_the_run_shows_both(
    home: Path, url: str, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_SECONDS", "3")
    process = start(
        "run", write_study(parallel_trials=2, budget={"trials": 6, "stop_early": False})
    )
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    trials = trials_of(url)
    assert len(trials) == 6 and {trial.outcome for trial in trials} <= {"complete", "pruned"}
    assert len({trial.worker_id for trial in trials}) == 2
    for trial in trials:
        assert f"trial {trial.number}: {trial.outcome}" in output, "the run tells of all trials"
    assert len({json.dumps(trial.hyperparameters) for trial in trials}) == 6


@pytest.mark.slow
def test_trials_of_several_base_models_run_at_once(
    home: Path, url: str, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_SECONDS", "1")
    models = [{"name": name, "weights": "random", "shape": "shape"} for name in ("one", "two")]
    budget = {"trials": 4, "stop_early": False}
    process = start("run", write_study(model=models, parallel_trials=2, budget=budget))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    trials = trials_of(url)
    assert len(trials) == 4 and {trial.outcome for trial in trials} <= {"complete", "pruned"}
    assert len({trial.worker_id for trial in trials}) == 2
    assert {trial.hyperparameters["model"] for trial in trials} == {"one", "two"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_companions_end_with_their_run(
    url: str, write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("HELD_TRIALS", ",".join(map(str, range(9))))
    process = start("run", write_study(parallel_trials=2, budget={"trials": 6}))
    read_until(process, "trial 0:")
    with closing(open_store(url, create=False)) as store:
        wait_for_workers(store, 2)
        study = store.study("tiny")
        assert study is not None
        deadline = time.monotonic() + 60
        while len(store.running_trials(study.id)) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        process.communicate(timeout=120)
        wait_for_workers(store, 0 if number == signal.SIGINT else 1)
        trials = store.trials(study.id)
    ended = [trial.outcome for trial in trials]
    assert ended.count("lost") == (2 if number == signal.SIGINT else 1), ended
