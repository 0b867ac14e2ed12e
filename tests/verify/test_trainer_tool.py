"""Tools that train with transformers' Trainer: the job that they get, and how results are read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.factories import HYPERPARAMETERS, PLAN
from vram_search.errors import InputError
from vram_search.importing.history import History
from vram_search.store import StepLoss, StudyRecord, TrialRecord
from vram_search.verify import REAL_TOOLS, Recorded, ToolEnvironment, environment, verify
from vram_search.verify.environment import find_environment
from vram_search.verify.recorded_rows import RecordedRows
from vram_search.verify.tool_run import ToolRows
from vram_search.verify.trainer_tool import changed_copy, parse_log
from vram_search.verify.verify import overrides_on_cpu

VERIFY: Any = sys.modules[overrides_on_cpu.__module__]
ROW = ("hash", 12, 5)


def test_the_log_gives_losses_evaluations_and_the_peak() -> None:
    entries = [
        {"loss": 3.5, "learning_rate": 1e-3, "grad_norm": 1.0, "step": 1, "max_steps": 2},
        {"loss": 3.25, "learning_rate": 5e-4, "grad_norm": 1.0, "step": 2, "max_steps": 2},
        {"eval_loss": 3.0, "eval_runtime": 1.5, "step": 2, "max_steps": 2},
        {"allocated_bytes": 4096},
    ]
    text = "\n".join([*map(json.dumps, entries), '{"loss": 3'])
    found = parse_log(text, "log")
    assert [step.loss for step in found.losses.values()] == [3.5, 3.25]
    assert found.evaluations == {2: (3.0, 1.5)}
    assert found.measured == {"allocated_bytes": 4096}


def test_a_script_gets_a_copy_with_the_changed_keys(tmp_path: Path) -> None:
    file = tmp_path / "demo.peft.yaml"
    file.write_text(yaml.safe_dump({"model": {"dtype": "bfloat16"}, "training": {"bf16": True}}))
    copy = changed_copy(file, ["model.dtype=float32", "training.bf16=false"])
    assert yaml.safe_load(copy.read_text()) == {
        "model": {"dtype": "float32"},
        "training": {"bf16": False},
    }
    assert yaml.safe_load(file.read_text())["training"]["bf16"] is True


def trial_in(dtype: str) -> TrialRecord:
    return replace(TRIAL, versions={"compute_dtype": dtype})


def test_without_a_gpu_the_dtype_is_that_of_the_trial() -> None:
    script = {
        "model": {"dtype": "bfloat16"},
        "quantization": {"bnb_4bit_compute_dtype": "bfloat16"},
        "training": {"bf16": True, "fp16": False},
    }
    assert overrides_on_cpu(REAL_TOOLS["peft"], script, trial_in("bfloat16")) == []
    assert overrides_on_cpu(REAL_TOOLS["peft"], script, trial_in("float32")) == [
        "model.dtype=float32",
        "training.bf16=false",
        "quantization.bnb_4bit_compute_dtype=float32",
    ]
    flat = {"dtype": "bfloat16", "bf16": True, "fp16": False}
    found = overrides_on_cpu(REAL_TOOLS["trl"], flat, trial_in("float32"))
    assert found == ["use_cpu=true", "bf16=false", "dtype=float32"]


def test_peft_runs_in_our_own_python_unless_another_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = "import json, sys; print(json.dumps({'versions': {n: '1' for n in sys.argv[1:]}, "
    monkeypatch.setattr(environment, "_PROBE", probe + "'has_gpu': False}))")
    found = find_environment(None, REAL_TOOLS["peft"])
    assert found.python == Path(sys.executable)
    assert set(found.versions) == {"peft", "torch", "transformers", "bitsandbytes"}


def test_a_missing_tool_is_named_with_the_commands_that_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no TRL was found") as caught:
        find_environment(None, REAL_TOOLS["trl"])
    assert "pip install trl==1.16.0 peft bitsandbytes" in caught.value.remedy


_TRIAL: dict[str, Any] = {
    **dict.fromkeys(TrialRecord.__dataclass_fields__),
    "id": 1,
    "number": 3,
    "outcome": "complete",
    "hyperparameters": HYPERPARAMETERS,
    "plan": PLAN,
    "eval_loss_step": 2,
    "adapter_path": ".",
    "versions": {"compute_dtype": "float32"},
}
TRIAL = TrialRecord(**_TRIAL)
_STUDY: dict[str, Any] = {**dict.fromkeys(StudyRecord.__dataclass_fields__), "name": "demo"}
STUDY = StudyRecord(**_STUDY)


class Run:
    """A tool's run with the record's rows and losses."""

    overrides = ("use_cpu=true",)
    log = Path("tool.log")

    def encode_rows(self) -> ToolRows:
        return ToolRows((ROW,), (ROW,), max_steps=2, eval_batch_size=1)

    def train(self, tell: Any) -> History:
        losses = {1: StepLoss(1, 3.5, 1e-3, 1.0), 2: StepLoss(2, 3.0, 5e-4, 1.0)}
        return History(losses=losses, evaluations={2: (2.0, 1.0)}, last_step=2)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """A trial whose kept adapter gives 10 nats on the 5 answer tokens of its evaluation row."""
    ours = RecordedRows(
        train=(ROW,), eval=(ROW,), eval_at_study_cutoff=(ROW,), eval_loss_sums=(10,)
    )
    monkeypatch.setattr(VERIFY, "question_of", lambda recorded: None)
    monkeypatch.setattr(VERIFY, "_ask_ourselves", lambda *question: ours)
    monkeypatch.setattr(VERIFY, "_run_of", lambda *arguments: (Run(), {"warmup_steps": 1}))
    monkeypatch.setattr(VERIFY, "_tools_own_peak", lambda *arguments: None)
    best = type("Best", (), {"step": 2, "example_loss_sums": [10.0]})
    monkeypatch.setattr(Recorded, "best", best)
    losses = [StepLoss(1, 3.5, 1e-3, 1.0), StepLoss(2, 3.1, 5e-4, 1.0)]
    yield Recorded(STUDY, TRIAL, losses, [])


def verified(recorded: Recorded, name: str, folder: Path) -> Any:
    tool = ToolEnvironment(Path("python"), {}, False, REAL_TOOLS[name].title)
    return verify(recorded, tool, folder, lambda _: None, tolerance=0.01, real=REAL_TOOLS[name])


def test_trl_is_compared_as_llama_factory_is(recorded: Recorded, tmp_path: Path) -> None:
    found = verified(recorded, "trl", tmp_path)
    names = [check.name for check in found.checks if check.agrees]
    assert found.agrees
    assert names == [
        *("train_rows", "eval_rows", "adapter_loss"),
        *("learning_rates", "first_loss", "eval_loss"),
    ]


def test_unsloth_without_a_gpu_has_its_rows_compared_and_does_not_count_as_verified(
    recorded: Recorded, tmp_path: Path
) -> None:
    found = verified(recorded, "unsloth", tmp_path)
    states = {check.name: check.agrees for check in found.checks}
    assert (states["train_rows"], states["eval_rows"], states["first_loss"]) == (True, True, None)
    assert "Unsloth trains on a GPU only" in found.checks[-1].note
    assert not found.agrees


def axolotl_notes(recorded: Recorded, folder: Path, dtype: str) -> tuple[dict[str, str], bool]:
    """Notes of the checks that are not judged, and whether it agrees, of a trial in this dtype."""
    found = verified(replace(recorded, trial=trial_in(dtype)), "axolotl", folder)
    notes = {check.name: check.note for check in found.checks if check.agrees is None}
    return {name: note for name, note in notes.items() if name != "allocated_bytes"}, found.agrees


def test_what_axolotls_second_warmup_step_changes_is_not_judged(
    recorded: Recorded, tmp_path: Path
) -> None:
    notes, agrees = axolotl_notes(recorded, tmp_path, "float32")
    assert list(notes) == ["learning_rates", "eval_loss"] and agrees
    assert "2 warm-up steps" in notes["learning_rates"]


def test_axolotls_eval_loss_is_not_judged_as_its_adapter_has_no_seed(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERIFY, "_run_of", lambda *arguments: (Run(), {"warmup_steps": 2}))
    notes, agrees = axolotl_notes(recorded, tmp_path, "float32")
    assert list(notes) == ["eval_loss"] and agrees
    assert "without a seed" in notes["eval_loss"]


def test_losses_of_another_dtype_are_not_judged(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VERIFY, "_run_of", lambda *arguments: (Run(), {"warmup_steps": 2}))
    notes, agrees = axolotl_notes(recorded, tmp_path, "bfloat16")
    assert list(notes) == ["first_loss", "eval_loss"] and not agrees
    assert "computes in float32 without a GPU, the trial did in bfloat16" in notes["first_loss"]


def test_axolotl_trains_in_fp32_where_no_gpu_is() -> None:
    """It cannot ask transformers for bf16 on a CPU."""
    real = REAL_TOOLS["axolotl"]
    assert overrides_on_cpu(real, {"bf16": True, "fp16": False}, trial_in("bfloat16")) == [
        "bf16=false"
    ]
    assert overrides_on_cpu(real, {"bf16": False, "fp16": True}, trial_in("float16")) == [
        "fp16=false"
    ]
    assert overrides_on_cpu(real, {"bf16": False, "fp16": False}, trial_in("float32")) == []


@pytest.mark.skipif(os.name == "nt", reason="a script stands for the tool's Python")
def test_a_python_that_is_slow_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(environment, "_PROBE_SECONDS", 0.2)
    with pytest.raises(InputError, match="did not import torch within") as caught:
        find_environment(slow, REAL_TOOLS["axolotl"])
    assert "try again" in caught.value.remedy
