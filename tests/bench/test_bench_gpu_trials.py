"""`python -m bench.gpu_trials`: its rows, its points, both runs on a tiny model, its tables."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench.gpu_trials import __main__ as gpu_trials
from bench.gpu_trials.evaluation import (
    FUSED,
    PLAIN,
    evaluation_peaks,
    evaluation_tables,
    furthest_part,
)
from bench.gpu_trials.leak import (
    LAYERS,
    OPTIMIZERS,
    PLANS,
    WARM_TRIALS,
    leak_check,
    leak_plans,
    leak_tables,
)
from bench.gpu_trials.monitor import (
    LOADS,
    Alternation,
    median_interval,
    monitor_effect,
    monitor_tables,
)
from bench.gpu_trials.oom import oom_cost, oom_tables
from bench.gpu_trials.runs import (
    STEP_TOKENS,
    Collector,
    EnoughError,
    Keep,
    plan_by_hand,
    random_points,
    run_with_planner,
    run_without_planner,
)
from bench.gpu_trials.setup import CUTOFFS, LONG_ROWS, TOO_LONG, Bench, bench_study, write_report
from bench.gpu_trials.table import (
    TrialFigures,
    between_trials,
    part_errors,
    summary,
    trial_tables,
)
from bench.record import nvml as record_nvml
from tests.fake_process import FakeProcess
from tests.fake_trainer import COMMAND as FAKE_TRAINER
from vram_search.data import load_rows
from vram_search.errors import InputError
from vram_search.estimate import plans, smallest, workload_of
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import FakeReader, GpuDevice, GpuSample, Monitor
from vram_search.protocol import Step
from vram_search.spec import load_study
from vram_search.spec.plan import PlanPins
from vram_search.store import TrialRecord
from vram_search.units import GIB, MIB
from vram_search.worker import process, resident
from vram_search.worker.budget import Budget
from vram_search.worker.prepare import prepare

MODEL = "Qwen/Qwen2.5-3B-Instruct"
FOREVER = math.inf


def trial(number: int, outcome: str = "complete", **changes: Any) -> TrialFigures:
    """A trial whose probe bounds it and whose prediction is 1 % high, all of it in the logits."""
    peak = 10 * GIB
    figures = TrialFigures(
        number=number,
        outcome=outcome,
        hyperparameters={"cutoff_len": 512, "learning_rate": 1e-4 * (number + 1)},
        plan={"per_device_train_batch_size": 2},
        predicted={
            "allocated_bytes": peak * 1.01,
            "parts": {"base_weights": 2 * GIB, "logits": 8.1 * GIB, "context": 500 * MIB},
        },
        measured={
            "allocated_bytes": peak,
            "probe_allocated_bytes": peak,
            "leaked_bytes": 0,
            "base_intact": True,
            "parts": {"base_weights": 2 * GIB, "logits": 8 * GIB},
        },
        seconds={"load": 0.0, "probe": 2.0, "train": 3.0, "eval": 1.0, "save": 0.1, "plan": 0.2},
    )
    return replace(figures, **changes)


def report(on: list[TrialFigures], off: list[TrialFigures]) -> dict[str, Any]:
    """As JSON gives it back."""
    found = {
        "kind": "trials",
        "title": "Random points of TD-010's space.",
        "planned": {"on": 40, "off": 10},
        "on": [asdict(t) for t in on],
        "off": [asdict(t) for t in off],
    }
    decoded: dict[str, Any] = json.loads(json.dumps(found))
    return decoded


@pytest.fixture
def bench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m bench.gpu_trials` in this process."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["gpu_trials", *map(str, arguments)])
        code: Any = 0
        try:
            gpu_trials.main()
        except SystemExit as ended:
            code = ended.code
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run


# Rows and points


def test_rows_reach_every_cutoff_but_are_not_all_cut(tmp_path: Path) -> None:
    from vram_search.train.examples import encode
    from vram_search.train.tokenizer import load_tokenizer

    study = bench_study(tmp_path, MODEL, seed=1)
    rows = load_rows(study.dataset, study.seed)
    tokenizer = load_tokenizer(None)
    lengths = [encode(row, tokenizer).length for row in rows.train]
    assert lengths.count(CUTOFFS[-1]) == LONG_ROWS
    assert max(lengths) == TOO_LONG
    assert min(lengths) < CUTOFFS[-1]
    assert [encode(row, tokenizer).length for row in rows.eval] == [CUTOFFS[-1]] * len(rows.eval)


def test_points_are_the_same_for_a_seed_and_take_no_more_than_a_short_step(tmp_path: Path) -> None:
    space = bench_study(tmp_path, MODEL, seed=1).search_space
    points = random_points(space, 40, seed=11)
    assert points == random_points(space, 40, seed=11)
    assert points != random_points(space, 40, seed=12)
    assert all(space.contains(point) for point in points)
    feasible = [point for point in points if point.cutoff_len != TOO_LONG]
    assert 0 < len(feasible) < len(points)
    assert all(point.batch_size * point.cutoff_len <= STEP_TOKENS for point in feasible)


@pytest.mark.parametrize("fused", [False, True])
def test_too_long_a_cutoff_is_infeasible_and_the_others_are_not(
    tmp_path: Path, fused: bool
) -> None:
    study = bench_study(tmp_path, MODEL, seed=1)
    prepared = prepare(study, print)
    limit = MemoryBudget.of(study.card, prepared.shape)
    for point in random_points(study.search_space, 40, seed=11):
        found = plans(
            prepared.shape,
            point,
            study.card,
            PlanPins(enable_liger_kernel=fused),
            eval_cutoff_len=study.eval_cutoff_len,
        )
        fits = limit.fits(smallest(found).estimate.required_bytes)
        assert fits == (point.cutoff_len != TOO_LONG)


# Both runs, with tests/fake_trainer.py; `make gpu` runs the bench with real trainings


@pytest.fixture
def tiny_bench(
    home: Path,
    tmp_path: Path,
    write_study: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setattr(resident, "TrainingProcess", FakeProcess)
    database = str(tmp_path / "bench.db")
    file = write_study(
        training={"max_steps": 2, "rungs": []}, enqueue_priors=False, database=database
    )
    prepared = prepare(load_study(file), print)
    limit = MemoryBudget.of(prepared.study.card, prepared.shape)
    return Bench(prepared, tmp_path, None, Budget.at_start(limit, None, print))


def test_both_runs_train_the_same_points_in_order(
    tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", FAKE_TRAINER)
    starts: list[Path] = []

    class CountedProcess(process.TrainingProcess):
        def __init__(self, log: Path, environment: dict[str, str]) -> None:
            starts.append(log)
            super().__init__(log, environment)

    monkeypatch.setattr(resident, "TrainingProcess", CountedProcess)
    points = random_points(tiny_bench.study.search_space, 3, seed=1)
    off: list[TrialFigures] = []
    on: list[TrialFigures] = []
    run_without_planner(tiny_bench, points[:2], FOREVER, off.append)
    assert len(starts) == 2, "a process of its own each"
    run_with_planner(tiny_bench, points, FOREVER, on.append)

    assert [t.outcome for t in on + off] == ["complete"] * 5
    assert [t.number for t in on] == [0, 1, 2] and [t.number for t in off] == [0, 1]
    assert [t.hyperparameters["learning_rate"] for t in on] == [
        pytest.approx(point.learning_rate) for point in points
    ]
    assert [t.hyperparameters for t in off] == [point.model_dump() for point in points[:2]]
    assert off[0].plan == plan_by_hand(points[0]).model_dump()
    assert len(starts) == 3, "one process for all"
    assert min(t.seconds["imports"] for t in off) > 0
    assert all("load" in t.seconds for t in on + off)
    assert off[0].predicted["allocated_bytes"] > 0
    assert trial_tables(report(on, off))[0].rows[0] == ["trials", "3 of 40", "2", "2 of 10"]


def test_search_ends_after_its_trials_or_at_the_deadline(tiny_bench: Bench) -> None:
    unset: dict[str, Any] = dict.fromkeys(TrialRecord.__dataclass_fields__)
    record = cast(TrialRecord, SimpleNamespace(**{**unset, "outcome": "infeasible"}))
    kept: list[TrialFigures] = []
    patient, late = Collector(2, FOREVER, kept.append), Collector(2, 0.0, kept.append)
    patient.trial_ended(record)
    for collector in (patient, late):
        with pytest.raises(EnoughError):
            collector.trial_ended(record)
    assert (patient.ended, late.ended, len(kept)) == (2, 1, 3)
    points = random_points(tiny_bench.study.search_space, 3, seed=1)
    run_without_planner(tiny_bench, points, 0.0, kept.append)
    assert len(kept) == 3


def test_trials_of_the_leak_check_share_one_process(tiny_bench: Bench) -> None:
    saved: list[str] = []
    found = json.loads(
        json.dumps(leak_check(tiny_bench, 3, FOREVER, lambda r: saved.append(json.dumps(r))))
    )
    assert [len(json.loads(text)["after"]) for text in saved] == [1, 2, 3]
    assert all(leak_tables(json.loads(text)) for text in saved)
    assert [trial["outcome"] for trial in found["after"]] == ["complete"] * 3
    assert found["processes"] == 1
    if sys.platform == "linux":
        assert found["after"][-1]["host_bytes"] > 10 * MIB
    (table,) = leak_tables(found)
    assert table.header == ["MiB", "after 3", "after 3", "growth"]


@pytest.fixture
def gpu_reader() -> FakeReader:
    device = GpuDevice(0, "GPU-0", "a card", 16 * GIB, "580", "13.0", "9.0", False, False)
    return FakeReader(device, [GpuSample(0.0, GIB, GIB)])


def test_each_load_is_timed_with_and_without_the_monitor(
    tiny_bench: Bench, gpu_reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu_trials.monitor.ready_on_gpu", lambda bench, trainer: None)
    monkeypatch.setattr("bench.gpu_trials.monitor.liger_available", lambda family: False)
    saved: list[str] = []
    found = monitor_effect(
        replace(tiny_bench, reader=gpu_reader), 0.0, lambda r: saved.append(json.dumps(r))
    )
    assert [len(load["pairs"]) for load in found["loads"]] == [load.pairs for load in LOADS]
    assert all(load["samples_per_second"] for load in found["loads"])
    assert len(saved) == 2 and json.loads(saved[-1]) == json.loads(json.dumps(found))
    assert len(monitor_tables(json.loads(saved[0]))[0].rows) == 1
    (table,) = monitor_tables(found)
    assert [row[1] for row in table.rows] == [str(load.pairs) for load in LOADS]


def test_pinned_evaluations_are_predicted_beside_what_was_measured(
    tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.gpu_trials.evaluation.liger_available", lambda family: False)
    found = json.loads(json.dumps(evaluation_peaks(tiny_bench, FOREVER, lambda report: None)))
    assert [trial["outcome"] for trial in found["trials"]] == ["complete"] * len(PLAIN)
    assert [trial["eval_batch"] for trial in found["trials"]] == [p.eval_batch for p in PLAIN]
    assert all(trial["predicted_bytes"] > 0 for trial in found["trials"])
    (table,) = evaluation_tables(found)
    assert table.rows[0][-1] == "-", "a CPU measures no parts"


def test_every_pinned_plan_has_its_peak_in_an_evaluation_and_fits(tmp_path: Path) -> None:
    study = bench_study(tmp_path, MODEL, seed=1)
    prepared = prepare(study, print)
    limit = MemoryBudget.of(study.card, prepared.shape)
    for fused, pinned in ((False, PLAIN), (True, FUSED)):
        for pins in pinned:
            hp, plan = pins.point(), pins.plan(fused)
            estimate = predict(workload_of(prepared.shape, hp, plan, study.eval_cutoff_len))
            assert estimate.moment == "evaluation"
            assert limit.fits(estimate.required_bytes)


def test_seconds_of_a_trial_and_of_the_process_after_it_are_told_apart(tiny_bench: Bench) -> None:
    found = json.loads(json.dumps(oom_cost(tiny_bench, 2, FOREVER, lambda report: None)))
    assert [trial["outcome"] for trial in found["trials"]] == ["complete"] * 2, "the CPU has room"
    assert all(trial["seconds"]["own"] > trial["seconds"]["load"] for trial in found["trials"])
    assert oom_tables(found)


def test_base_of_the_leak_check_has_fewer_layers_and_the_whole_embedding(tmp_path: Path) -> None:
    name = "Qwen/Qwen2.5-0.5B-Instruct"
    small = prepare(bench_study(tmp_path, name, seed=1, layers=LAYERS), print).shape
    assert small.num_hidden_layers == LAYERS
    assert (small.hidden_size, small.vocab_size) == (896, 151936)


def test_recorded_readings_carry_the_stage_of_their_trial(
    tiny_bench: Bench, gpu_reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGE_SECONDS", "0.5")
    monkeypatch.setattr(record_nvml, "ready_on_gpu", lambda bench, trainer: trainer.ready())
    found = json.loads(json.dumps(record_nvml.record(replace(tiny_bench, reader=gpu_reader))))
    assert found["outcome"] == "complete"
    assert {"probe", "train"} <= {reading["stage"] for reading in found["samples"]}
    again = {k: v for k, v in found["samples"][0].items() if k != "stage"}
    assert GpuSample(**again).device_bytes == GIB
    assert GpuDevice(**found["device"]).name == "a card"


def test_torch_without_cuda_is_one_message(tiny_bench: Bench, gpu_reader: FakeReader) -> None:
    with pytest.raises(InputError, match="torch finds no GPU"):
        leak_check(replace(tiny_bench, reader=gpu_reader), 1, FOREVER, lambda report: None)


# Tables


def test_summary_counts_only_what_was_recorded() -> None:
    trials = [
        trial(0),
        trial(1, predicted={"allocated_bytes": 9.8 * GIB}),
        trial(2, "infeasible", measured={}, seconds={"plan": 9.0}),
        trial(3, "oom", measured={"leaked_bytes": 0}, seconds={"probe": 4.0, "load": 0.0}),
        trial(4, "pruned", measured={"allocated_bytes": 10 * GIB, "leaked_bytes": 20 * MIB}),
    ]
    found = summary(trials)
    assert found["outcomes"]["complete"] == 2
    assert found["outcomes"]["infeasible"] == found["outcomes"]["oom"] == 1
    assert found["gpu_seconds"]["probe"] == 2 + 2 + 4 + 2
    assert found["gpu_seconds"]["plan"] == pytest.approx(0.6), "an infeasible trial holds no card"
    assert found["probe_over_full"] == (1, 1, 1)
    assert found["prediction_error"] == (
        pytest.approx(-0.02),
        pytest.approx(0.01),
        pytest.approx(0.01),
    )
    assert found["leaked_bytes"] == (0, 0, 20 * MIB)


def test_probe_that_does_not_bound_its_run_shows_in_the_smallest_ratio() -> None:
    missed = {
        "allocated_bytes": 10 * GIB,
        "probe_allocated_bytes": 9 * GIB,
        "probe_miss": 10 / 9,
        "base_intact": False,
    }
    found = summary([trial(0), trial(1, measured=missed), trial(2)])
    assert found["probe_over_full"] == (pytest.approx(0.9), 1, 1)
    assert found["probe_misses"] == found["base_changed"] == 1


def test_out_of_memory_costs_its_own_seconds_and_the_next_process() -> None:
    trials = [
        trial(0, "oom", seconds={"load": 30.0, "probe": 4.0}),
        trial(1, "infeasible", seconds={"plan": 0.1}),
        trial(2, seconds={"imports": 18.0, "load": 2.0, "probe": 1.0}),
        trial(3, "oom", seconds={"probe": 4.0}),
    ]
    found = summary(trials)
    assert found["oom_own_seconds"] == (4, 4, 4)
    assert found["oom_start_seconds"] == (20, 20, 20), "the last one has no successor"
    assert found["oom_load_seconds"] == (2, 2, 2), "imports hold nothing on the card"


def test_parts_are_compared_within_the_allocated_peak() -> None:
    logits, base = part_errors([trial(0), trial(1), trial(2, "oom")])
    assert (logits["part"], base["part"]) == ("logits", "base_weights")
    assert logits["difference_bytes"] == pytest.approx(0.1 * GIB)
    assert logits["share_of_peak"] == pytest.approx(0.01)
    assert base["difference_bytes"] == 0


def test_fresh_process_per_trial_costs_its_start_on_top_of_what_lies_between() -> None:
    started = {"load": 20.0, "probe": 1.0, "plan": 0.1, "between": 0.9}
    resident = {"load": 0.0, "probe": 1.0, "plan": 0.5, "between": 1.5}
    on = [trial(0, seconds=started), trial(1, seconds=resident)]
    off = [trial(0, seconds={"imports": 16.0, "load": 2.0}), trial(1, seconds={"load": 16.0})]
    found = between_trials(on, off)
    assert found == {"between": 2.0, "start": 18.0, "ratio": 10.0}
    assert between_trials([trial(0)], []) == {"between": None, "start": None, "ratio": None}


def test_tables_fit_eighty_columns_and_say_how_many_were_done() -> None:
    on = [trial(n) for n in range(24)]
    texts = [table.as_text() for table in trial_tables(report(on, on[:10]))]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80
    lines = texts[0].splitlines()
    assert lines[2].split() == ["trials", "24", "of", "40", "10", "10", "of", "10"]
    assert "logits" in texts[1] and "+102.4" in texts[1]


def test_records_without_bytes_give_dashes_and_no_table_of_parts() -> None:
    bare = trial(0, predicted={}, measured={}, seconds={})
    outcomes, between = trial_tables(report([bare], []))
    assert ["probe / full peak, min", "-", "-", "-"] in outcomes.rows
    assert ["leak, largest", "-", "-", "-"] in outcomes.rows
    assert [row[1] for row in between.rows] == ["-", "-", "-"]


def step(number: int, seconds: float) -> Step:
    return Step(step=number, loss=1.0, learning_rate=1e-4, grad_norm=1.0, seconds=seconds)


def test_neighbouring_windows_are_paired_and_the_first_step_is_left_out() -> None:
    watched: list[str] = []

    class Watching:
        def stop(self) -> SimpleNamespace:
            watched.append("stop")
            return SimpleNamespace(achieved_hz=25.0)

    def start() -> Monitor:
        watched.append("start")
        return cast(Monitor, Watching())

    alternation = Alternation(2, start)
    seconds = [9.0, 1.0, 1.0, 1.1, 1.1, 1.2, 1.2, 1.0, 1.0, 5.0]
    for number, value in enumerate(seconds, 1):
        alternation.listen(step(number, value))
    assert alternation.pairs() == [(1.0, 1.1), (1.0, 1.2)]
    assert watched == ["start", "stop"], "watched from the second window to the third"
    assert alternation.rates == [25.0]


def test_interval_of_a_median_needs_six_values_and_holds_the_middle_ones() -> None:
    assert median_interval([1.0] * 5) is None
    assert median_interval([float(n) for n in range(6)]) == (0, 5)
    assert median_interval([float(n) for n in range(12, 0, -1)]) == (3, 10)
    low, high = median_interval([float(n) for n in range(100)]) or (0, 0)
    assert (low, high) == (39, 60), "as tables of the sign test have it"


def test_effect_of_the_monitor_is_the_median_of_pairs() -> None:
    pairs = [[0.5 + n / 100, (0.5 + n / 100) * 1.002] for n in range(9)] + [[0.5, 5.0]]
    load = {"load": "host, 1 x 512", "pairs": pairs, "samples_per_second": [25.0, 24.8]}
    (table,) = monitor_tables({"card": "a card", "loads": [load]})
    assert table.rows == [["host, 1 x 512", "10", "0.5350", "+0.20%", "+0.20% to +0.20%"]]
    assert "24.9 Hz" in table.title


def test_out_of_memory_is_shown_with_what_it_held_the_card_for() -> None:
    trial = {
        "outcome": "oom",
        "stage": "probe",
        "step": 1,
        "batch_shape": [16, 2048],
        "requested_bytes": 9 * GIB,
        "held_bytes": 5 * GIB,
        "seconds": {"own": 1.25, "imports": 11.0, "load": 2.5},
    }
    (table,) = oom_tables({"card": "a card", "trials": [trial]})
    cells = ["9.00 GiB at 5.00 GiB", "1.2", "11.0", "2.5", "3.8"]
    assert table.rows == [["oom, probe step 1, 16 x 2048", *cells]]


def test_part_that_is_furthest_off_is_named() -> None:
    assert furthest_part({"a": 3 * MIB, "b": MIB}, {"a": 3 * MIB, "c": 4 * MIB}) == "c -4.0"
    assert furthest_part({"a": 3 * MIB}, {}) == "-"


def test_growth_is_counted_from_the_warm_trials_on() -> None:
    after = [
        {
            "outcome": "complete",
            "leaked_bytes": MIB if number == 20 else 0,
            "process_bytes": 1500 * MIB,
            "device_bytes": None,
            "host_bytes": (1000 + number) * MIB,
            "base_intact": True,
        }
        for number in range(100)
    ]
    (table,) = leak_tables(
        {
            "card": "a card",
            "allocated_bytes": 500 * MIB,
            "planned": 100,
            "processes": 1,
            "after": after,
        }
    )
    assert table.rows == [
        ["allocated", "500.0", "501.0", "1.0"],
        ["process", "1500.0", "1500.0", "0.0"],
        ["device", "-", "-", "-"],
        ["host RSS", f"{999 + WARM_TRIALS}.0", "1099.0", f"{100 - WARM_TRIALS}.0"],
    ]
    assert "largest leak of one trial 1.0 MiB" in table.title


def test_leak_check_tries_every_optimizer_under_every_plan() -> None:
    warm = leak_plans(100)[:WARM_TRIALS]
    assert len({(optim, target, plan) for optim, target, plan in warm}) == WARM_TRIALS
    assert len(OPTIMIZERS) * len(PLANS) == WARM_TRIALS


# The command


def test_without_a_gpu_it_is_one_message_and_exit_code_2(
    bench: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for mode in ([], ["--monitor-effect"], ["--leak", "3"], ["--evaluation"], ["--oom"]):
        done = bench(*mode)
        assert done.returncode == 2
        assert done.stderr.startswith("error: this bench needs a GPU")
        assert "Traceback" not in done.stderr and done.stdout == ""


def test_earlier_run_is_shown_again_as_markdown(
    tmp_path: Path, bench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(report([trial(0)], [])), encoding="utf-8")
    done = bench("--from", file, "--markdown")
    assert done.returncode == 0, done.stderr
    assert "| trials | 1 of 40 | 0 | 0 of 10 |" in done.stdout


def test_report_is_whole_after_each_trial_and_can_be_shown(
    tiny_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_by_hand(bench: Bench, points: object, deadline: float, keep: Keep) -> None:
        keep(trial(0))
        keep(trial(1))

    def search(bench: Bench, points: object, deadline: float, keep: Keep) -> None:
        keep(trial(0))

    monkeypatch.setattr(gpu_trials, "run_without_planner", two_by_hand)
    monkeypatch.setattr(gpu_trials, "run_with_planner", search)
    saved: list[str] = []
    asked = Namespace(trials=3, off_trials=2, seconds=None, seed=1)
    gpu_trials.planner_report(tiny_bench, asked, lambda r: saved.append(json.dumps(r)))
    done = [trial_tables(json.loads(text))[0].rows[0] for text in saved]
    assert done == [
        ["trials", "0 of 3", "0", "1 of 2"],
        ["trials", "0 of 3", "0", "2 of 2"],
        ["trials", "1 of 3", "1", "2 of 2"],
    ]


def test_stopped_writing_leaves_the_earlier_report(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_report(file, {"kind": "leak"})
    with pytest.raises(TypeError):
        write_report(file, {"kind": object()})
    assert json.loads(file.read_text(encoding="utf-8")) == {"kind": "leak"}


@pytest.mark.parametrize("text", ["no json", '["a list"]', '{"kind": "other"}'])
def test_file_of_something_else_is_refused(
    tmp_path: Path, text: str, bench: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file = tmp_path / "run.json"
    file.write_text(text, encoding="utf-8")
    done = bench("--from", file)
    assert done.returncode == 2
    assert str(file) in done.stderr and "--out" in done.stderr and "Traceback" not in done.stderr
