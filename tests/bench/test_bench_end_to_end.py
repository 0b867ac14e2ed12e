"""The bench of both arms on a real card: its table, its records, and its searches without a GPU."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from bench.end_to_end import __main__ as end_to_end
from bench.end_to_end.arms import Tpe, distributions, hyperparameters, recorded
from bench.end_to_end.processes import end, shared_environment, start
from bench.end_to_end.race import race
from bench.end_to_end.records import Record, Run, RunFolder
from bench.end_to_end.table import best_loss, catch_up, render, seconds_to
from bench.end_to_end.task import Task, open_task
from tests.factories import make_space
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.data import load_rows
from vram_search.errors import InputError, VramSearchError
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec import load_study
from vram_search.spec.space_parts import LearningRateRange
from vram_search.store import TrialResult, open_store, sqlite_url

ROOT = Path(__file__).parents[2]
RUN = Run(("triz",), seeds=3, minutes=4.0, device="emulated 16 GB on H200", finished=("triz",))
ANSWERS = {0: ("complete", 1.5), 1: ("oom", None), 2: ("diverged", None), 3: ("complete", 1.2)}
"""Of the fake trial process by its number; later ones die."""
ENDS_AT_ONCE = """
import json, time
time.sleep(1)
print(json.dumps({"outcome": "complete", "eval_loss": 1.5}))
"""
"""A trial process of Optuna's arm."""
FAKE_TRAININGS = f"""\
import sys
from functools import partial
from bench.end_to_end import __main__ as end_to_end, arms
arms.RUN_COMMAND = {(*FAKE_TRAINER, "run")!r}
end_to_end.Tpe = partial(arms.Tpe, command=(sys.executable, "-c", {ENDS_AT_ONCE!r}))
sys.exit(end_to_end.main())
"""
"""The bench with trainings that end at once."""
FAKE_TRIAL = f"""\
import json, sys
job = json.load(sys.stdin)
hp = job["trial"]["hyperparameters"]
assert hp["lora_alpha"] == 2 * hp["lora_rank"], hp
assert job["trial"]["plan"]["per_device_train_batch_size"] == hp["batch_size"]
outcome, loss = {ANSWERS!r}[job["trial"]["number"]]
print(json.dumps(dict(outcome=outcome, eval_loss=loss)))
"""
WAITS_FOR_EVER = "import signal; print('ready', flush=True); signal.pause()"


def record(arm: Any, seconds: float, loss: float | None, **changes: Any) -> Record:
    fields = {"seed": 0, "number": 0, "outcome": "complete", **changes}
    return Record(arm=arm, task="triz", elapsed_seconds=seconds, eval_loss=loss, **fields)


@pytest.fixture
def task(write_study: Callable[..., Path], tmp_path: Path) -> Task:
    notes: list[str] = []
    return open_task(write_study(), None, tmp_path, None, notes.append)


@pytest.fixture
def tpe(task: Task, tmp_path: Path) -> Iterator[Tpe]:
    """Plain TPE whose trials answer at once."""
    search = Tpe(task, 0, tmp_path / "tpe.log", {}, [sys.executable, "-c", FAKE_TRIAL])
    yield search
    search.close()


def poll_until(search: Tpe, trials: int) -> list[Record]:
    records: list[Record] = []
    while len(records) < trials:
        records += search.poll()
    return records


class FakeSearch:
    """Gives one record a poll, and then ends as it is told to."""

    def __init__(self, records: list[Record], ends_with: BaseException | None = None) -> None:
        self.left, self.ends_with = list(records), ends_with
        self.began, self.is_closed = time.time(), False

    @property
    def is_over(self) -> bool:
        return not self.left and self.ends_with is None

    def poll(self) -> list[Record]:
        if self.left:
            return [self.left.pop(0)]
        if self.ends_with is not None:
            raise self.ends_with
        return []

    def close(self) -> list[Record]:
        self.is_closed = True
        return []


def test_only_trials_that_ran_to_their_end_count_as_losses() -> None:
    records = [
        record("ours", 10, 1.1, outcome="pruned"),
        record("ours", 20, 1.5),
        record("ours", 40, None, outcome="diverged"),
        record("ours", 50, 1.3),
    ]
    assert best_loss(records, 19) == math.inf
    assert best_loss(records, 20) == 1.5
    assert best_loss(records) == 1.3
    assert seconds_to(records, 1.5) == 20
    assert seconds_to(records, 1.4) == 50
    assert seconds_to(records, 1.2) == math.inf


def test_the_ratio_compares_when_both_had_the_final_loss_of_tpe() -> None:
    tpe = [record("tpe", 100, 1.6), record("tpe", 200, 1.4), record("tpe", 230, 1.5)]
    found = catch_up([record("ours", 50, 1.38), record("ours", 150, 1.2)], tpe)
    assert found is not None
    assert (found.ours_seconds, found.tpe_seconds, found.ratio) == (50, 200, 0.25)
    never = catch_up([record("ours", 50, 1.41)], tpe)
    assert never is not None and never.ratio == math.inf
    assert catch_up([record("ours", 50, 1.41)], [record("tpe", 9, None, outcome="oom")]) is None


def test_the_table_shows_medians_over_all_seeds_those_without_a_trial_too() -> None:
    records = [
        *(record("ours", 50, 1.3 + seed / 100, seed=seed) for seed in range(3)),
        record("ours", 55, 1.4, outcome="pruned", number=1),
        record("ours", 58, 1.4, outcome="pruned", number=1, seed=1),
        record("ours", 59, None, outcome="infeasible", number=2, seed=1),
        record("ours", 200, 1.2, number=3, seed=1),
        record("tpe", 100, 1.5, seed=0),
        record("tpe", 200, 1.33, seed=1),
    ]
    lines = render(RUN, records).splitlines()
    assert lines[0] == "emulated 16 GB on H200: 4 minutes a search, medians over 3 seeds."
    assert "6 searches at a time" in lines[1] and "slower than alone" in lines[2]
    cells = [line.split() for line in lines]
    # Seeds have best 1.30, 1.31, 1.32 at the half, and 1.30, 1.20, 1.32 at the end.
    assert ["triz", "ours", "2", "1", "1.3100", "1.3100", "1.3000"] in cells
    # None, 1.50 and none at the half; 1.50, 1.33 and none at the end.
    assert ["triz", "tpe", "1", "1", "none", "none", "1.5000"] in cells
    text = " ".join(lines)
    assert "ours had after 50 s, TPE after 150 s." in text
    assert "median: 0.38; by seed: 0.50, 0.25, no trial of TPE." in text


def test_markdown_holds_the_same_figures() -> None:
    records = [record("ours", 50, 1.3), record("tpe", 100, 1.5)]
    run = replace(RUN, seeds=1)
    lines = render(run, records, markdown=True).splitlines()
    assert "| task | arm | trials | complete | best at 60 s | 120 s | 240 s |" in lines
    assert "| triz | ours | 1 | 1 | 1.3000 | 1.3000 | 1.3000 |" in lines


def test_a_run_that_was_stopped_early_says_so() -> None:
    records = [record("ours", 50, 1.3)]
    assert "Stopped early: triz." in render(replace(RUN, finished=()), records)
    assert "Stopped early" not in render(RUN, records)


def test_a_search_has_the_study_s_own_exam_whatever_its_seed(task: Task) -> None:
    own = load_study(task.file)
    split = load_rows(own.dataset, own.seed)
    studies = [load_study(task.file, [*task.overrides, f"seed={seed}"]) for seed in (0, 1)]
    for study in studies:
        assert load_rows(study.dataset, study.seed).data_hash == split.data_hash
    assert load_rows(own.dataset, 0).data_hash != split.data_hash
    assert task.load_job(1).dataset == studies[1].dataset


def test_plain_tpe_sees_categories_and_a_logarithmic_learning_rate(task: Task) -> None:
    space = task.study.space
    found: dict[str, Any] = distributions(space)
    assert found["lora_rank"].choices == space.lora_rank
    assert isinstance(space.learning_rate, LearningRateRange)
    assert found["learning_rate"].log and found["learning_rate"].low == space.learning_rate.min
    params = {name: d.choices[0] for name, d in found.items() if name != "learning_rate"}
    hp = hyperparameters({**params, "learning_rate": 1e-3}, task.study)
    assert space.contains(hp) and hp.lora_alpha == 2 * hp.lora_rank


def test_plain_tpe_searches_optional_hyperparameters_that_a_study_names(task: Task) -> None:
    named = make_space(lora_alpha={"ratio": [1, 4]}, lora_dropout={"min": 0, "max": 0.1})
    study = task.study.model_copy(update={"search_space": named})
    found: dict[str, Any] = distributions(study.space)
    assert found["lora_alpha"].choices == (1, 4)
    assert (found["lora_dropout"].high, found["lora_dropout"].log) == (0.1, False)
    hp = hyperparameters({"lora_rank": 8, "lora_alpha": 4, "lora_dropout": 0.05}, study)
    assert (hp.lora_alpha, hp.lora_dropout) == (32, 0.05)


def test_plain_tpe_asks_a_process_a_trial_and_tells_what_it_answers(tpe: Tpe) -> None:
    records = poll_until(tpe, 5)
    assert [(r.number, r.outcome, r.eval_loss) for r in records] == [
        *((number, *answer) for number, answer in ANSWERS.items()),
        (4, "lost", None),
    ]
    ends = [r.elapsed_seconds for r in records]
    assert ends == sorted(ends) and ends[0] > 0
    told = tpe.optuna_study.trials[:5]
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [t.state for t in told] == [complete, pruned, pruned, complete, TrialState.FAIL]
    assert told[3].value == 1.2


def test_trial_processes_that_always_die_end_the_bench(tpe: Tpe) -> None:
    with pytest.raises(VramSearchError, match="3 trial processes in a row died") as caught:
        poll_until(tpe, 8)
    assert "KeyError: 6" in caught.value.message


def test_trials_of_ours_are_read_from_its_database(tmp_path: Path) -> None:
    with_trials = open_store(sqlite_url(tmp_path / "search.db"), create=True)
    assert recorded(with_trials, "triz", 2, 0.0) == []
    study = with_trials.create_study("triz", {}, "hash", {}, {})
    began = time.time()
    for number in range(2):
        trial = with_trials.start_trial(study.id, number, {}, seed=2, data_hash="hash")
        if number == 0:
            with_trials.finish_trial(trial, TrialResult("pruned", eval_loss=1.4))
    [found] = recorded(with_trials, "triz", 2, began - 100)
    with_trials.close()
    assert 100 <= found.elapsed_seconds < 160
    assert found == replace(
        record("ours", found.elapsed_seconds, 1.4, outcome="pruned"), seed=2, number=0
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), VramSearchError("it broke")])
def test_a_stopped_run_keeps_its_records_and_ends_every_search(
    tmp_path: Path, stop: BaseException
) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.begin(RUN)
    first, second = record("tpe", 3.0, 1.5), record("ours", 4.0, 1.3)
    searches = [FakeSearch([first]), FakeSearch([second], ends_with=stop)]
    with pytest.raises(type(stop)):
        race(searches, 60, folder.add)
    assert searches[1].is_closed
    assert searches[0].is_closed
    with (tmp_path / "out" / "records.jsonl").open("a") as file:
        file.write('{"arm": "ours", "ta')  # cut off
    assert folder.read() == (RUN, [first, second])


def test_what_ends_after_the_time_does_not_count() -> None:
    found: list[Record] = []
    searches = [FakeSearch([record("tpe", 59.0, 1.5), record("tpe", 61.0, 1.1)])]
    race(searches, 60, found.append)
    assert [r.elapsed_seconds for r in found] == [59.0]
    late = FakeSearch([], ends_with=AssertionError("is not asked any more"))
    late.began -= 61
    race([late], 60, found.append)
    assert late.is_closed


@pytest.mark.timeout(60)
def test_ending_a_process_ends_what_it_started(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITS_FOR_EVER!r}])"
    process = start([sys.executable, "-c", child], tmp_path / "log", {}, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    with os.fdopen(os.dup(process.stdout.fileno())) as held_by_the_child:
        end(process)
        assert process.returncode == -signal.SIGKILL
        assert held_by_the_child.read() == ""  # comes when nobody can write any more


def test_searches_share_the_cores_equally() -> None:
    assert shared_environment(1)["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert shared_environment(10_000)["OMP_NUM_THREADS"] == "1"


def test_a_folder_with_a_run_is_not_written_again(tmp_path: Path) -> None:
    RunFolder(tmp_path).begin(RUN)
    with pytest.raises(InputError, match="holds an earlier run"):
        RunFolder(tmp_path).begin(RUN)


def test_the_command_line_prints_an_earlier_run_and_refuses_what_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(end_to_end, "silence_libraries", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)

    def bench(*options: object) -> int:
        monkeypatch.setattr(sys, "argv", ["end_to_end", *map(str, options)])
        return end_to_end.main()

    assert bench("--from", tmp_path) == 2
    assert "no run of this bench" in capsys.readouterr().err
    folder = RunFolder(tmp_path)
    folder.begin(RUN)
    folder.add(record("ours", 50, 1.3))
    assert bench("--from", tmp_path, "--markdown") == 0
    shown = capsys.readouterr().out
    assert shown.rstrip() == render(RUN, [record("ours", 50, 1.3)], markdown=True)


@pytest.fixture
def trial_message(task: Task) -> dict[str, Any]:
    """What a trial process reads from its standard input."""
    params: dict[str, Any] = {
        "optim": "adamw_torch_fused", "lora_target": "all", "lora_rank": 4, "cutoff_len": 128,
        "batch_size": 4, "learning_rate": 1e-2,
    }  # fmt: skip
    hp = hyperparameters(params, task.study)
    return {
        "load": task.load_job(0).model_dump(mode="json"),
        "trial": task.trial_job(0, hp, 0).model_dump(mode="json"),
    }


def test_a_trial_trains_and_tells_its_best_loss(trial_message: dict[str, Any]) -> None:
    from bench.end_to_end.trial import run

    answer = run(LoadJob(**trial_message["load"]), TrialJob(**trial_message["trial"]))
    assert answer["outcome"] == "complete"
    assert 4 < answer["eval_loss"] < math.log(512) + 0.2


@pytest.mark.slow
def test_a_trial_process_prints_the_answer_of_its_training(trial_message: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.end_to_end.trial"],
        input=json.dumps(trial_message), cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["outcome"] == "complete"
    assert 4 < answer["eval_loss"] < math.log(512) + 0.2


@pytest.mark.slow  # the race, both arms and what a stopped run keeps have tests of their own above
def test_both_arms_train_and_a_terminated_run_keeps_what_ended(
    write_study: Callable[..., Path], home: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    study = write_study(training={"max_steps": 2, "rungs": [0.5]})
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", FAKE_TRAININGS, "--out", str(out), "--study", str(study),
         "--seeds", "1", "--minutes", "4"],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch), "STAGE_SECONDS": "2"},
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        waiting = {"ours", "tpe"}
        for line in process.stderr:
            waiting -= set(line.split())
            if not waiting:
                break
        process.terminate()
        assert "interrupted" in process.stderr.read()
    assert process.returncode == 130
    run, records = RunFolder(out).read()
    assert run.finished == ()
    assert {r.arm for r in records if r.outcome == "complete" and r.eval_loss} == {"ours", "tpe"}
    assert not list(scratch.glob("end-to-end-*"))
