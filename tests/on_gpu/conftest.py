"""A training process with a small base on a card of 16 GiB, and jobs for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import make_point
from vram_search.protocol import LoadJob, TrialJob
from vram_search.resources import shipped
from vram_search.spec import MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.units import GIB
from vram_search.worker.resident import ResidentTrainer

CAP_BYTES = 16 * GIB
LONGEST_ANSWER = 560
"""Characters, a token each: with its question beyond the cutoff of 512."""
STEPS = 2


@pytest.fixture(scope="session")
def make_trainer() -> Callable[..., ResidentTrainer]:
    return new_trainer


@pytest.fixture(scope="session")
def make_job() -> Callable[..., TrialJob]:
    return trial_job


def new_trainer(folder: Path, gpu_uuid: str | None = None) -> ResidentTrainer:
    """A process with a random 0.5B base on a card of 16 GiB and 40 rows of 60 to 600 tokens."""
    text = "a long answer, " * (LONGEST_ANSWER // 15)
    rows = [
        json.dumps({"instruction": f"Question {n}?", "output": text[: 14 * (n + 1)]})
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    job = LoadJob(
        model_name_or_path=str(shipped("configs", "models", "qwen2.5-0.5b")),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec(train=str(folder / "rows.jsonl"), val_size=4),
        seed=1,
        cutoff_lens=(512,),
        eval_cutoff_len=512,
        cap_bytes=CAP_BYTES,
    )
    return ResidentTrainer(job, folder / "log", expandable_segments=True, gpu_uuid=gpu_uuid)


def trial_job(
    folder: Path,
    number: int,
    micro_batch: int,
    optim: str,
    *,
    accumulation: int = 1,
    steps: int = STEPS,
    rungs: tuple[float, ...] = (),
) -> TrialJob:
    return TrialJob(
        number=number,
        hyperparameters=make_point(
            optim=optim, lora_target="qv", lora_rank=8, batch_size=micro_batch * accumulation
        ),
        target_modules=("q_proj", "v_proj"),
        plan=MemoryPlan(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=number % 2 == 0,
            per_device_eval_batch_size=1 + number % 2,
        ),
        training=TrainingSpec(max_steps=steps, rungs=rungs),
        eval_cutoff_len=512,
        seed=1,
        adapter_folder=str(folder / f"trial-{number}"),
    )
