"""A tiny base model in NF4 on the CPU, rows for it, and jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_point
from vram_search.data import Example
from vram_search.protocol import LoadJob, TrialJob
from vram_search.spec import MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.train import model as base_model
from vram_search.train.examples import encode
from vram_search.train.run import EncodedDataset
from vram_search.train.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def load_job(tmp_path_factory: pytest.TempPathFactory, tiny_config: str) -> LoadJob:
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text(tiny_config)
    rows = folder / "rows.jsonl"
    rows.write_text("{}")
    return LoadJob(
        model_name_or_path=str(folder),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec(train=str(rows)),
        seed=7,
        cutoff_lens=(128,),
        eval_cutoff_len=128,
    )


@pytest.fixture(scope="module")
def base(load_job: LoadJob) -> Any:
    return base_model.load_base(load_job)


@pytest.fixture(scope="module")
def encoded() -> EncodedDataset:
    tokenizer = byte_tokenizer()
    rows = [
        encode(Example((("user", f"{n}?"), ("assistant", "yes " * (3 + n)))), tokenizer)
        for n in range(12)
    ]
    return EncodedDataset(rows[:8], rows[8:], tokenizer)


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., TrialJob]:
    """A job whose fields, or learning_rate and cutoff_len, keywords replace."""

    def make(**changes: Any) -> TrialJob:
        hyperparameters = make_point(
            optim="adamw_torch_fused",
            lora_target="qv",
            lora_rank=4,
            cutoff_len=changes.pop("cutoff_len", 128),
            batch_size=4,
            learning_rate=changes.pop("learning_rate", 1e-2),
        )
        fields: dict[str, Any] = {
            "number": 0,
            "hyperparameters": hyperparameters,
            "target_modules": ("q_proj", "v_proj"),
            "plan": MemoryPlan(
                per_device_train_batch_size=2,
                gradient_accumulation_steps=2,
                gradient_checkpointing=True,
                per_device_eval_batch_size=2,
            ),
            "training": TrainingSpec(max_steps=6, rungs=(0.34,)),
            "eval_cutoff_len": 128,
            "seed": 3,
            "adapter_folder": str(tmp_path / "adapter"),
        }
        return TrialJob(**{**fields, **changes})

    return make
