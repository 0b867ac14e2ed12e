"""What holds only on a CUDA GPU: the allocator's peaks, its cap, the resident base. `make gpu`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vram_search.gpu import NvmlReader
from vram_search.protocol import AnyEvent, Finished, LoadJob, Probed, TrialJob
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.spec.study import DatasetSpec, TrainingSpec
from vram_search.units import GIB, MIB
from vram_search.worker.resident import LEAK_BYTES, ResidentTrainer

pytestmark = pytest.mark.gpu
ROW_CHARACTERS = 390


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    answer = "a long answer, " * (ROW_CHARACTERS // 15)
    file.write_text(
        "\n".join(
            json.dumps({"instruction": f"Question {n}?", "output": f"{n}: {answer}"})
            for n in range(40)
        )
    )
    return file


@pytest.fixture
def trainer(tmp_path: Path, rows: Path) -> Iterator[ResidentTrainer]:
    resident = ResidentTrainer(
        load_job(rows), tmp_path / "log", expandable_segments=True, gpu_uuid=None
    )
    yield resident
    resident.replace()


def load_job(rows: Path, cap_bytes: int | None = None) -> LoadJob:
    return LoadJob(
        model_name_or_path=str(shipped("configs", "models", "qwen2.5-0.5b")),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec(train=str(rows), val_size=4),
        seed=1,
        cutoff_lens=(512,),
        eval_cutoff_len=512,
        cap_bytes=cap_bytes,
    )


def trial_job(folder: Path, number: int, micro_batch: int, optim: str) -> TrialJob:
    return TrialJob(
        number=number,
        hyperparameters=Hyperparameters(
            optim=optim,
            lora_target="qv",
            lora_rank=8,
            lora_alpha=16,
            cutoff_len=512,
            batch_size=micro_batch,
            learning_rate=1e-4,
        ),
        target_modules=("q_proj", "v_proj"),
        plan=MemoryPlan(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=1,
            gradient_checkpointing=number % 2 == 0,
            per_device_eval_batch_size=1,
        ),
        training=TrainingSpec(max_steps=6, rungs=()),
        eval_cutoff_len=512,
        seed=1,
        adapter_folder=str(folder / f"trial-{number}"),
    )


def run(trainer: ResidentTrainer, job: TrialJob) -> tuple[Finished, list[AnyEvent]]:
    events: list[AnyEvent] = []
    return trainer.run(job, events.append, lambda evaluated: False), events


def test_trials_leave_nothing_behind_and_share_one_process(
    trainer: ResidentTrainer, tmp_path: Path
) -> None:
    optimizers = ("adamw_torch_fused", "adamw_8bit", "lion_8bit")
    for number in range(6):
        finished, _ = run(trainer, trial_job(tmp_path, number, 2, optimizers[number % 3]))
        assert finished.outcome == "complete", finished.message
        assert abs(finished.leaked_bytes) <= LEAK_BYTES
    assert trainer.starts == 1


def test_probe_bounds_the_training(trainer: ResidentTrainer, tmp_path: Path) -> None:
    finished, events = run(trainer, trial_job(tmp_path, 0, 4, "adamw_8bit"))
    probed = next(event for event in events if isinstance(event, Probed))
    assert finished.allocated_bytes is not None and probed.allocated_bytes is not None
    assert finished.allocated_bytes <= probed.allocated_bytes * 1.01


def test_cap_makes_a_real_out_of_memory_and_the_process_is_replaced(
    tmp_path: Path, rows: Path
) -> None:
    resident = ResidentTrainer(
        load_job(rows, cap_bytes=2 * GIB),
        tmp_path / "log",
        expandable_segments=True,
        gpu_uuid=None,
    )
    try:
        failed, _ = run(resident, trial_job(tmp_path, 0, 16, "adamw_8bit"))
        assert failed.outcome == "oom"
        assert failed.requested_bytes is not None and failed.requested_bytes > MIB
        assert failed.stage == "probe"
        assert failed.batch_shape is not None and failed.batch_shape[0] == 16
        passed, _ = run(resident, trial_job(tmp_path, 1, 1, "adamw_8bit"))
        assert passed.outcome == "complete", passed.message
        assert resident.starts == 2
    finally:
        resident.replace()


def test_nvml_sees_the_device() -> None:
    reader = NvmlReader()
    sample = reader.sample(None)
    assert reader.device().total_bytes > GIB
    assert 0 <= sample.device_bytes <= reader.device().total_bytes
