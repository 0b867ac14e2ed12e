"""`python -m bench.speed.plan` without a GPU: its settings, its figures and its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.speed import plan as plan_speed
from bench.speed.plan import EXAMPLES, EXAMPLES_PLAN, PLANNER, Result, Setting
from vram_search.data import load_rows
from vram_search.errors import VramSearchError
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.step_time import Speed, StepTimeModel
from vram_search.gpu import FakeReader, GpuDevice, GpuSample, NoGpuError
from vram_search.protocol import LoadJob
from vram_search.spec import Card
from vram_search.spec.card import load_card
from vram_search.units import GIB

CARD = Card.model_validate(load_card(plan_speed.CARD))
H200 = StepTimeModel(Speed(989e12, 4.8e12))
RESULT = Result("a", EXAMPLES, "1x8 ckpt", 2.0, 2.2, 1000.0, 0.05, 10**9)


def settings(tmp_path: Path, model: str) -> list[Setting]:
    dataset = plan_speed.write_rows(tmp_path, 12)
    return plan_speed.settings_of(model, CARD, dataset, tmp_path)


@pytest.mark.parametrize("model", plan_speed.MODELS)
def test_planner_and_examples_train_the_same_batch_under_the_same_cap(
    tmp_path: Path, model: str
) -> None:
    examples, planner = settings(tmp_path, model)
    budget_bytes = MemoryBudget.of(CARD, examples.shape).budget_bytes
    assert examples.trainer.job.cap_bytes == planner.trainer.job.cap_bytes == budget_bytes
    assert not examples.trainer.job.enable_liger_kernel
    assert plan_speed.plan_of(examples, CARD, H200, [300, 700]) == EXAMPLES_PLAN
    chosen = plan_speed.plan_of(planner, CARD, H200, [300, 700])
    assert chosen.batch_size == EXAMPLES_PLAN.batch_size
    assert chosen != EXAMPLES_PLAN
    assert chosen.enable_liger_kernel == planner.trainer.job.enable_liger_kernel


def test_planner_is_predicted_to_be_faster_than_the_examples(tmp_path: Path) -> None:
    examples, planner = settings(tmp_path, "qwen2.5-3b")
    rows = [300, 700]
    seconds = [
        plan_speed.result_of(
            one, plan_speed.plan_of(one, CARD, H200, rows), H200, rows, 1.0, 0
        ).predicted_step_seconds
        for one in (examples, planner)
    ]
    assert seconds[0] > 1.5 * seconds[1]


def test_rows_are_enough_for_the_steps_and_vary_in_length(tmp_path: Path) -> None:
    rows = load_rows(plan_speed.write_rows(tmp_path, 12), plan_speed.SEED)
    lengths = sorted(len(row.messages[-1][1]) for row in rows.train)
    assert len(lengths) == 12 * 8
    assert lengths[-1] > 2 * lengths[len(lengths) // 2] > 4 * lengths[0]
    assert lengths[-1] < plan_speed.CUTOFF_LEN


def test_tokens_and_share_of_the_peak_follow_from_the_seconds(tmp_path: Path) -> None:
    examples, _ = settings(tmp_path, "qwen2.5-3b")
    slow = plan_speed.result_of(examples, EXAMPLES_PLAN, H200, [300, 5000], 4.0, 1)
    fast = plan_speed.result_of(examples, EXAMPLES_PLAN, H200, [300, 5000], 2.0, 1)
    assert slow.tokens_per_second == 8 * (300 + 1024) / 2 / 4, "cut at 1024, padding left out"
    assert fast.tokens_per_second == 2 * slow.tokens_per_second
    per_token = 4 * 3.09e9  # of Qwen2.5-3B, its head counted once
    expected = slow.tokens_per_second * per_token / H200.speed.flops_per_second
    assert slow.peak_share == pytest.approx(expected, rel=0.05)
    assert fast.peak_share == pytest.approx(2 * slow.peak_share)


def test_table_names_each_ratio_and_their_geometric_mean_in_80_columns() -> None:
    results = [
        RESULT,
        replace(RESULT, setting=PLANNER, plan="8x1 fused", tokens_per_second=4000.0),
        replace(RESULT, model="b"),
        replace(RESULT, model="b", setting=PLANNER, tokens_per_second=1000.0),
    ]
    assert plan_speed.ratios(results) == {"a": 4.0, "b": 1.0}
    lines = plan_speed.table(results).splitlines()
    assert lines[-3:] == ["a: 4.00 x", "b: 1.00 x", "geometric mean: 2.00 x"]
    assert max(map(len, lines)) <= 80


class Trained:
    """Stands for `measure`; the planner's setting of `fails` does not complete."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __call__(self, setting: Setting, *_: object) -> Result:
        if (setting.model, setting.name) == (self.fails, PLANNER):
            raise VramSearchError(f"{setting.model}: oom in probe")
        return replace(RESULT, model=setting.model, setting=setting.name)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A card and processes that are there at once; the list tells when they load and end."""
    told: list[str] = []

    class Process:
        def __init__(self, job: LoadJob, log: Path, **_: object) -> None:
            self.name = log.stem

        def ready(self) -> None:
            told.append(f"load {self.name}")

        def replace(self) -> None:
            told.append(f"end {self.name}")

    device = GpuDevice(0, "GPU-0", "a card", 16 * GIB, "580", "13.0", "9.0", False, False)
    reader = FakeReader(device, [GpuSample(0.0, GIB, GIB)])
    monkeypatch.setattr("bench.gpu_trials.setup.NvmlReader", lambda: reader)
    monkeypatch.setattr(plan_speed, "ResidentTrainer", Process)
    return told


def test_processes_of_a_model_end_before_the_next_models_load(
    on_a_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_speed, "measure", Trained())
    small, large = plan_speed.MODELS[:2]
    plan_speed.run([small, large], 2, lambda report: None)
    assert all(small in line for line in on_a_gpu[:4])
    assert all(large in line for line in on_a_gpu[4:])
    assert [line.split()[0] for line in on_a_gpu] == ["load", "load", "end", "end"] * 2


def test_what_was_measured_before_a_failure_is_written_and_shown(
    on_a_gpu: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, large = plan_speed.MODELS[:2]
    file = tmp_path / "plan.json"
    monkeypatch.setattr(plan_speed, "measure", Trained(fails=large))
    monkeypatch.setattr("sys.argv", ["", "--models", small, large, "--out", str(file)])
    assert plan_speed.main() == 1
    report = json.loads(file.read_text(encoding="utf-8"))
    assert [(r["model"], r["setting"]) for r in report["results"]] == [
        (small, EXAMPLES),
        (small, PLANNER),
        (large, EXAMPLES),
    ]
    assert report["ratios"] == {small: 1.0} and report["device"] == "a card"
    shown = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in shown] == [small, small, large, f"{large}:"]
    assert len(on_a_gpu) == 8, "the processes end after a failure too"


def test_machine_without_a_gpu_gets_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_reader() -> None:
        raise NoGpuError("no NVIDIA driver is installed", "Install the driver.")

    monkeypatch.setattr("bench.gpu_trials.setup.NvmlReader", no_reader)
    monkeypatch.setattr("sys.argv", ["plan_speed"])
    assert plan_speed.main() == 2
    assert "no NVIDIA driver" in capsys.readouterr().err
