"""Folders as LLaMA-Factory, Axolotl and transformers' Trainer leave them, in small."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.cli.main import main
from vram_search.importing.folder import load_run
from vram_search.store import ImportedTrial

STEPS = 51
LOSSES = {10: 2.31, 20: 1.62, 30: 1.34, 40: 1.21, 50: 1.17}
EVAL_LOSSES = {25: 1.2841, 50: 1.1973}
ADAPTER = {
    "base_model_name_or_path": "Qwen/Qwen2.5-3B-Instruct",
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ["v_proj", "q_proj"],
    "task_type": "CAUSAL_LM",
}
TRAINING_ARGS = """\
bf16: true
cutoff_len: 512
dataset: triz
do_train: true
finetuning_type: lora
gradient_accumulation_steps: 8
hub_token: not-to-be-kept
learning_rate: 1e-4
lora_alpha: 16
lora_rank: 8
lora_target: q_proj,v_proj
model_name_or_path: Qwen/Qwen2.5-3B-Instruct
optim: adamw_8bit
per_device_train_batch_size: 2
quantization_bit: 4
seed: 7
stage: sft
"""
AXOLOTL = """\
base_model: Qwen/Qwen2.5-1.5B-Instruct
adapter: qlora
load_in_4bit: true
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 1024
micro_batch_size: 4
gradient_accumulation_steps: 4
optimizer: paged_adamw_8bit
learning_rate: 0.0002
"""
RESULTS = {
    "epoch": 3.0,
    "eval_loss": 1.1901,
    "eval_runtime": 4.2,
    "train_loss": 1.4512,
    "train_runtime": 174.3,
    "total_flos": 1e15,
}


def trainer_log(last_step: int = STEPS, total: int = STEPS) -> str:
    """LLaMA-Factory's log up to a step; at the end a line without losses."""
    steps = sorted(LOSSES | EVAL_LOSSES)
    lines: list[dict[str, Any]] = []
    for step in (step for step in steps if step <= last_step):
        common = {"current_steps": step, "total_steps": total, "epoch": step / 17}
        if step in LOSSES:
            lines.append(common | {"loss": LOSSES[step], "lr": 1e-4 * (1 - step / total)})
        if step in EVAL_LOSSES:
            lines.append(common | {"eval_loss": EVAL_LOSSES[step], "elapsed_time": "0:01:20"})
    if last_step == total:
        lines.append({"current_steps": total, "total_steps": total, "epoch": 3.0})
    return "".join(json.dumps(line) + "\n" for line in lines)


def trainer_state(last_step: int = STEPS, *, ended: bool = True) -> dict[str, Any]:
    """transformers' TrainerState up to a step."""
    history: list[dict[str, Any]] = []
    for step in (step for step in sorted(LOSSES | EVAL_LOSSES) if step <= last_step):
        if step in LOSSES:
            rates = {"learning_rate": 1e-4, "grad_norm": 0.5}
            history.append({"epoch": step / 17, "step": step, "loss": LOSSES[step]} | rates)
        if step in EVAL_LOSSES:
            evaluated = {"eval_loss": EVAL_LOSSES[step], "eval_runtime": 3.5}
            history.append({"epoch": step / 17, "step": step} | evaluated)
    if ended:
        end = {"train_loss": 1.4512, "train_runtime": 174.3, "total_flos": 1e15}
        history.append({"epoch": 3.0, "step": last_step} | end)
    return {
        "global_step": last_step,
        "max_steps": STEPS,
        "train_batch_size": 2,
        "log_history": history,
    }


WriteRun = Callable[..., Path]
Load = Callable[..., ImportedTrial]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run's folder: `write_run("a", {"adapter_config.json": ADAPTER})`."""

    def write(name: str, files: dict[str, Any]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            if isinstance(content, dict):
                content = json.dumps(content, indent=2)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.fixture
def load(write_run: WriteRun) -> Load:
    """Writes a folder "run" of those files and loads it."""
    return lambda files: load_run(write_run("run", files))


class Cli:
    """`main()` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["vram-search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    def imported(self, *arguments: object) -> dict[str, Any]:
        code, out, err = self("import", *arguments, "--json")
        assert code == 0, err
        answer: dict[str, Any] = json.loads(out)
        return answer


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)
