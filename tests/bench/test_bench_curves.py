"""The bench of real loss curves: its runs, its rows, and what it survives, on a tiny CPU model."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.curves.__main__ import STUDIES, WORKERS, main, prepare_tasks, resume, shortened
from bench.curves.figures import task_figures
from bench.curves.pool import Pool, WorkerDiedError, WorkerProcess
from bench.curves.rows import append, check, read_rows, row_key, write_rows
from bench.curves.runs import (
    EVAL_SECONDS,
    SETUP_SECONDS,
    STEP_SECONDS,
    Run,
    budget_words,
    configurations,
    eval_points,
    interleaved,
    load_job,
    task_runs,
)
from bench.curves.table import FIELDS, factors, make_tables
from bench.curves.toolcalls import ROWS, SEED
from bench.curves.toolcalls import rows as tool_call_rows
from bench.search.table import read_tables
from vram_search.errors import InputError
from vram_search.spec import load_study

ROOT = Path(__file__).parents[2]
WITHOUT_WEIGHTS = ["model.weights=random", "model.model_name_or_path=null"]


@pytest.fixture
def study_file(write_study: Callable[..., Path]) -> Path:
    """20 rows to learn from, 10 optimizer steps a run, 4 rows to be examined on."""
    return write_study(training={"num_train_epochs": 2, "eval_cutoff_len": 128})


@pytest.fixture
def runs(study_file: Path) -> list[Run]:
    [prepared] = prepare_tasks([study_file], None)
    return task_runs(prepared, configs=4, repeated=2)


def curves(study: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.curves", "--out", str(out), "--study", str(study),
         "--workers", "1", "--configs", "2", "--repeated", "1", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


ANSWERS_EVERYTHING = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"eval_loss": [1.0], "step_seconds": 1.0}), flush=True)
"""
"""A worker process that trains nothing."""


class FakeWorker:
    """Answers at once, or dies where it is told to."""

    machine = {"device": "none"}

    def __init__(self, dies_at: dict[str, int], seen: list[tuple[str, int]]) -> None:
        self.dies_at, self.seen = dies_at, seen

    def measure(self, task: str, job: Any) -> dict[str, Any]:
        config = f"c{job.number:03}"
        self.seen.append((config, job.seed))
        if self.dies_at.get(config, 0) > 0:
            self.dies_at[config] -= 1
            raise WorkerDiedError
        return {"eval_loss": [1.0]}

    def close(self) -> None:
        pass


def fake_pool(
    runs: list[Run], dies_at: dict[str, int] | None = None, deadline: float = math.inf
) -> tuple[Pool, list[tuple[str, int]], list[Run]]:
    seen: list[tuple[str, int]] = []
    recorded: list[Run] = []
    deaths = dict(dies_at or {})

    def start() -> Any:
        return FakeWorker(deaths, seen)

    return Pool(runs, start, lambda run, row: recorded.append(run), deadline), seen, recorded


def row(**changes: Any) -> dict[str, Any]:
    """A measured row."""
    return {
        "task": "t", "config": "c000", "seed": 0, "learning_rate": 1e-4, "lora_rank": 8,
        "lora_target": "qv", "cutoff_len": 128, "batch_size": 4, "optim": "adamw_8bit",
        "steps": 9, "eval_steps": list(range(10)), "eval_loss": [2.0 - 0.1 * i for i in range(10)],
        "train_seconds": 20.0, "eval_seconds": 10.0, "setup_seconds": 2.0, "step_seconds": 2.0,
        "max_allocated_bytes": 2**30, "example_loss_sums": [1.0, 2.0], "workers": 16,
        "machine": {"device": "none"}, **changes,
    }  # fmt: skip


def test_both_tasks_have_the_runs_that_the_issue_asks_for() -> None:
    triz, toolcalls = (load_study(study, WITHOUT_WEIGHTS) for study in STUDIES)
    assert triz.search_space == toolcalls.search_space
    points = configurations(triz, 150)
    other = configurations(toolcalls, 150)
    assert points[:60] == other[:60] and not set(points[60:]) & set(other[60:])
    assert points[:20] == configurations(triz, 20)
    assert all(triz.search_space.contains(point) for point in points)
    for name in ("optim", "lora_target", "lora_rank", "cutoff_len", "batch_size"):
        assert {getattr(p, name) for p in points} == set(getattr(triz.search_space, name))
    rates = sorted(point.learning_rate for point in points)
    assert rates[0] < 3e-5 and rates[-1] > 2e-3
    assert rates[75] == pytest.approx(math.sqrt(2e-5 * 3e-3), rel=0.5)


def test_every_beginning_of_the_list_is_a_smaller_table(runs: list[Run]) -> None:
    names = [(run.config, run.seed) for run in runs]
    assert names == [
        ("c000", 0), ("c001", 0), ("c000", 1), ("c000", 2),
        ("c002", 0), ("c003", 0), ("c001", 1), ("c001", 2),
    ]  # fmt: skip
    other = [run for run in runs if run.seed == 0]
    mixed = interleaved([runs, other])
    assert mixed[:4] == [runs[0], other[0], runs[1], other[1]]
    assert len(mixed) == len(runs) + len(other)


def test_a_repetition_differs_in_its_seed_alone(runs: list[Run]) -> None:
    first, again = runs[0], runs[2]
    assert again.job == first.job.model_copy(update={"seed": 1})


def test_evaluations_are_equally_spaced_and_reach_from_start_to_end() -> None:
    assert eval_points(27) == (0, 3, 6, 9, 12, 15, 18, 21, 24, 27)
    points = eval_points(120)
    assert len(points) == 10 and points[0] == 0 and points[-1] == 120
    assert max(b - a for a, b in itertools.pairwise(points)) <= 14


def test_the_budget_is_the_sum_of_steps_evaluations_and_set_ups(runs: list[Run]) -> None:
    assert {run.steps for run in runs} == {10}  # 20 rows in batches of 4, twice
    one = 10 * STEP_SECONDS + 10 * EVAL_SECONDS + SETUP_SECONDS
    assert runs[0].guessed_seconds == pytest.approx(one)
    minutes = 8 * one / 2 / 60
    assert "8 runs to go: 80 optimizer steps" in budget_words(runs, 2)
    assert f"about {minutes:.1f} minutes" in budget_words(runs, 2)


def test_the_whole_table_fits_twenty_minutes_of_a_shared_card() -> None:
    study_rows = {"triz": 140, "toolcalls": 160}
    steps = [
        3 * math.ceil(study_rows[study.stem] / point.batch_size)
        for study in STUDIES
        for point in configurations(load_study(study, WITHOUT_WEIGHTS), 150)
    ]
    runs = len(steps) * 170 / 150
    seconds = sum(steps) * 170 / 150 * STEP_SECONDS + runs * (10 * EVAL_SECONDS + SETUP_SECONDS)
    assert seconds / WORKERS < 20 * 60


def test_runs_begin_in_their_order_and_all_are_recorded(runs: list[Run]) -> None:
    pool, seen, recorded = fake_pool(runs)
    pool.work(1)
    assert seen == [(run.config, run.seed) for run in runs]
    assert recorded == runs


def test_a_run_whose_process_died_is_begun_again_and_given_up_after_two_deaths(
    runs: list[Run],
) -> None:
    pool, seen, recorded = fake_pool(runs, {"c002": 1, "c003": 2})
    pool.work(1)
    assert seen.count(("c002", 0)) == 2
    assert {run.config for run in recorded} == {"c000", "c001", "c002"}
    assert pool.lost == [run for run in runs if run.config == "c003"]


def test_no_run_begins_that_would_end_after_the_deadline(runs: list[Run]) -> None:
    pool, seen, _ = fake_pool(runs, deadline=time.monotonic() + runs[0].guessed_seconds - 1)
    pool.work(2)
    assert seen == []


def test_a_card_that_is_slower_than_guessed_begins_fewer_runs(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    guess, now = runs[0].guessed_seconds, [0.0]
    monkeypatch.setattr("bench.curves.pool.time.monotonic", lambda: now[0])
    answer = FakeWorker.measure

    def twice_as_slow(self: FakeWorker, task: str, job: Any) -> dict[str, Any]:
        now[0] += 2 * guess
        return answer(self, task, job)

    monkeypatch.setattr(FakeWorker, "measure", twice_as_slow)
    pool, seen, _ = fake_pool(runs, deadline=3.5 * guess)
    pool.work(1)
    assert len(seen) == 1


def test_processes_that_cannot_start_end_the_bench(runs: list[Run]) -> None:
    def start() -> WorkerProcess:
        raise WorkerDiedError

    pool = Pool(runs, start, lambda run, row: None, math.inf)
    pool.work(2)
    assert not pool.machine


def test_a_cut_off_last_line_is_passed_over_and_a_broken_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    append(file, row())
    append(file, row(config="c001"))
    whole = file.read_text()
    file.write_text(whole + whole[:40])
    assert [r["config"] for r in read_rows(file)] == ["c000", "c001"]
    file.write_text(whole[:40] + "\n" + whole)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(file)
    file.write_text('{"task": "t"}\n')
    with pytest.raises(InputError, match="line 1: no row of this bench"):
        read_rows(file)


def test_resuming_keeps_every_earlier_row_once(tmp_path: Path, runs: list[Run]) -> None:
    earlier = tmp_path / "earlier.jsonl"
    append(earlier, row(task="another"))
    append(earlier, runs[0].labels | {"eval_loss": [9.0]})
    append(tmp_path / "runs.jsonl", runs[0].labels)
    append(tmp_path / "runs.jsonl", runs[1].labels)
    done = resume(tmp_path, [earlier], runs)
    assert done == {runs[0].key, runs[1].key, ("another", "c000", 0)}
    expected = [runs[0].labels, runs[1].labels, row(task="another")]
    assert read_rows(tmp_path / "runs.jsonl") == expected


def test_rows_of_other_hyperparameters_are_refused(runs: list[Run]) -> None:
    check([runs[0].labels], runs)
    with pytest.raises(InputError, match="an earlier row has lora_rank 3"):
        check([runs[0].labels | {"lora_rank": 3}], runs)


def test_a_run_is_measured_with_its_curve(study_file: Path) -> None:
    from bench.curves.worker import load_task, measure
    from vram_search.train.model import load_base

    [prepared] = prepare_tasks([study_file], None)
    job = load_job(prepared)
    base, rows = load_base(job), load_task(job)
    first, second = task_runs(prepared, configs=1, repeated=1)[:2]
    measured = measure(base, first.job, rows)
    of_the_worker = {"eval_steps", "curve_example_loss_sums", "step_seconds"}
    assert of_the_worker <= set(measured) <= {*FIELDS, *of_the_worker}
    assert measured["eval_steps"] == eval_points(10)
    assert len(measured["eval_loss"]) == 10 and len(measured["example_loss_sums"]) == 4
    assert measured["eval_loss"][-1] < measured["eval_loss"][0]
    assert measured["max_allocated_bytes"] is None  # there is no card
    assert (first.seed, second.seed) == (0, 1)
    assert measure(base, second.job, rows)["eval_loss"] != measured["eval_loss"]


def test_workers_write_rows_and_resume_where_they_stopped(
    study_file: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.curves.pool.COMMAND", (sys.executable, "-c", ANSWERS_EVERYTHING))

    def measure_curves(out: Path, *options: str) -> None:
        arguments = ["--out", str(out), "--study", str(study_file), "--workers", "1", *options]
        monkeypatch.setattr(sys, "argv", ["curves", *arguments])
        main()

    measure_curves(tmp_path / "a", "--configs", "1", "--repeated", "0")
    [measured] = read_rows(tmp_path / "a" / "runs.jsonl")
    assert measured["workers"] == 1 and measured["machine"]["eval_loss"] == [1.0]

    earlier = ("--resume", str(tmp_path / "a" / "runs.jsonl"), "--lone", "1")
    measure_curves(tmp_path / "b", "--configs", "2", "--repeated", "1", *earlier)
    rows = read_rows(tmp_path / "b" / "runs.jsonl")
    assert rows[0] == measured
    assert sorted(map(row_key, rows)) == [
        ("tiny", "c000", 0), ("tiny", "c000", 1), ("tiny", "c000", 2), ("tiny", "c001", 0),
    ]  # fmt: skip
    [lone] = read_rows(tmp_path / "b" / "lone.jsonl")
    assert lone["steps"] == 18 and row_key(lone) == ("tiny", "c001", 0)


@pytest.mark.slow
def test_real_workers_write_rows_and_resume_where_they_stopped(
    study_file: Path, tmp_path: Path, home: Path
) -> None:
    first = curves(study_file, tmp_path / "a", "--configs", "1", "--repeated", "0")
    assert first.returncode == 0, first.stderr
    [measured] = read_rows(tmp_path / "a" / "runs.jsonl")
    more = {"step_seconds", "workers", "machine", "curve_example_loss_sums"}
    assert set(FIELDS) | more == set(measured)
    assert measured["eval_steps"] == list(eval_points(10))
    assert measured["steps"] == measured["eval_steps"][-1]
    assert len(measured["eval_loss"]) == 10 and len(measured["example_loss_sums"]) == 4
    assert measured["eval_loss"][-1] < measured["eval_loss"][0]
    assert measured["max_allocated_bytes"] is None  # there is no card
    assert measured["workers"] == 1

    earlier = str(tmp_path / "a" / "runs.jsonl")
    second = curves(study_file, tmp_path / "b", "--resume", earlier, "--lone", "1")
    assert second.returncode == 0, second.stderr
    assert "3 runs to go" in second.stderr
    rows = read_rows(tmp_path / "b" / "runs.jsonl")
    assert rows[0] == measured
    assert sorted(map(row_key, rows)) == [
        ("tiny", "c000", 0), ("tiny", "c000", 1), ("tiny", "c000", 2), ("tiny", "c001", 0),
    ]  # fmt: skip
    [lone] = read_rows(tmp_path / "b" / "lone.jsonl")
    assert lone["steps"] == 18 and row_key(lone) == ("tiny", "c001", 0)
    losses = {row_key(r): r["eval_loss"][-1] for r in rows}
    assert losses["tiny", "c000", 0] != losses["tiny", "c000", 1]


def test_a_killed_worker_costs_its_run_one_attempt_and_no_row(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.curves.pool.COMMAND", (sys.executable, "-c", ANSWERS_EVERYTHING))
    prepared = prepare_tasks([study_file], None)
    runs = task_runs(prepared[0], configs=2, repeated=0)
    tasks = {task.study.study: load_job(task) for task in prepared}
    pids: list[int] = []

    def start() -> WorkerProcess:
        process = WorkerProcess(tasks, tmp_path / "workers.log")
        pids.append(process.pid)
        if len(pids) == 1:
            os.kill(process.pid, signal.SIGKILL)
        return process

    rows: list[dict[str, Any]] = []
    lock = threading.Lock()

    def record(run: Run, measured: dict[str, Any]) -> None:
        with lock:
            rows.append(run.labels | measured)

    pool = Pool(runs, start, record, math.inf)
    pool.work(1)
    assert sorted(r["config"] for r in rows) == ["c000", "c001"]
    assert not pool.lost and len(pids) == 2


def test_a_model_that_cannot_be_loaded_is_one_clear_message(
    study_file: Path, tmp_path: Path, home: Path
) -> None:
    done = curves(study_file, tmp_path / "out", "--model", str(tmp_path / "none.gguf"))
    assert done.returncode == 2
    assert "error:" in done.stderr and "Traceback" not in done.stderr


def test_a_lone_run_is_the_same_configuration_over_few_steps(runs: list[Run]) -> None:
    short = shortened(runs[0])
    assert short.key == runs[0].key and short.steps == 18
    assert short.job.training.max_steps == 18
    assert short.job.hyperparameters == runs[0].job.hyperparameters


def test_seconds_of_a_shared_card_become_those_of_a_lone_process(tmp_path: Path) -> None:
    for config, last in (("c000", 1.1), ("c001", 1.3), ("c002", None)):
        losses = [*row()["eval_loss"][:-1], last]
        measured = row(config=config, eval_loss=losses)
        if last is None:
            del measured["example_loss_sums"]
        append(tmp_path / "runs.jsonl", measured)
    for config, step_seconds in (("c000", 0.5), ("c001", 0.6), ("c002", 0.7), ("c009", 9.0)):
        lone = row(config=config, step_seconds=step_seconds, eval_seconds=4.0, setup_seconds=1.0)
        append(tmp_path / "lone.jsonl", lone | {"workers": 1})
    figures = make_tables(tmp_path, tmp_path / "tables")
    table = [
        json.loads(line) for line in (tmp_path / "tables" / "t.jsonl").read_text().splitlines()
    ]
    assert list(table[0]) == list(FIELDS)
    assert list(table[2]) == list(FIELDS)[:-1]
    assert [r["train_seconds"] for r in table] == [6.0, 6.0, 6.0]  # 20 x 0.6 / 2
    assert table[0]["eval_seconds"] == 4.0 and table[0]["setup_seconds"] == 1.0
    assert table[0]["eval_loss"][-1] == 1.1 and table[0]["max_allocated_bytes"] == 2**30
    assert figures["t"]["diverged"] == "1"
    [replayed] = read_tables([tmp_path / "tables" / "t.jsonl"])
    assert sum(len(config.rows) for config in replayed.configs) == 3
    text = (tmp_path / "tables" / "README.md").read_text()
    assert "x 0.300 (0.250 to 0.350 over 3 lone runs)" in text


def test_a_second_measurement_adds_to_the_table_and_keeps_its_seconds(tmp_path: Path) -> None:
    for folder, config, lone_seconds in (("one", "c000", 1.0), ("two", "c001", 0.5)):
        (tmp_path / folder).mkdir()
        append(tmp_path / folder / "runs.jsonl", row(config=config))
        append(tmp_path / folder / "lone.jsonl", row(config=config, step_seconds=lone_seconds))
    make_tables(tmp_path / "one", tmp_path / "tables")
    resumed = read_rows(tmp_path / "tables" / "t.jsonl")
    write_rows(tmp_path / "two" / "runs.jsonl", [*resumed, row(config="c001")])
    make_tables(tmp_path / "two", tmp_path / "tables")
    table = read_rows(tmp_path / "tables" / "t.jsonl")
    assert [(r["config"], r["train_seconds"]) for r in table] == [("c000", 10.0), ("c001", 5.0)]
    text = (tmp_path / "tables" / "README.md").read_text()
    assert "x 0.500" in text and "x 0.250" in text


def test_a_table_needs_lone_runs_of_the_same_configurations() -> None:
    with pytest.raises(InputError, match="alone and beside others"):
        factors([row(config="c007")], [row()])


def test_figures_tell_noise_between_seeds_from_spread_between_configurations() -> None:
    rows = []
    for index in range(9):
        final = 1.0 + 0.1 * index
        losses = [2.0 - (2.0 - final) * i / 9 for i in range(10)]
        rows.append(row(config=f"c{index:03}", eval_loss=losses))
    overfitted = [*rows[8]["eval_loss"][:-1], 5.0]
    rows[8] = row(config="c008", eval_loss=overfitted)
    rows.append(row(seed=1, eval_loss=[*rows[0]["eval_loss"][:-1], 1.02]))
    found = task_figures(rows)
    assert found["configurations"] == "9" and found["runs"] == "10"
    assert found["sd of the best loss over seeds"] == "0.0141 (1 configurations)"
    assert found["last loss > best + 0.005"] == "1 of 9"
    assert found["rank correlation of the loss at 3/9 with the best"] == "1.00"
    assert found["best 5 among the best third at 1/9"] == "3"


def test_the_shipped_tool_calls_are_what_the_generator_writes() -> None:
    file = ROOT / "bench" / "curves" / "toolcalls.jsonl"
    made = tool_call_rows(ROWS, SEED)
    assert [json.loads(line) for line in file.read_text().splitlines()] == made
    assert len({r["instruction"] for r in made}) == ROWS
    for r in made:
        call = json.loads(r["output"].split("\n")[0])
        assert f"{call['tool']}({', '.join(call['arguments'])})" in r["input"]
        assert r["output"].split("\n")[1]
