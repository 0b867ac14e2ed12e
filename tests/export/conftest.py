"""A study, a trial and rows as they are recorded; made with the real dataclasses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from vram_search.data import Example, Rows
from vram_search.spec import StudySpec
from vram_search.store import StudyRecord, TrialRecord

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
CARD = {"name": "test", "title": "Test Card 8 GB", "total_bytes": "8 GiB"}


class MakeStudy(Protocol):
    def __call__(self, **spec: Any) -> StudyRecord: ...


class MakeTrial(Protocol):
    def __call__(self, **fields: Any) -> TrialRecord: ...


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A recorded study; keywords replace parts of its file."""

    def make(**parts: Any) -> StudyRecord:
        data = tmp_path / "rows.json"
        data.write_text("[]", encoding="utf-8")
        written = {
            "study": "demo",
            "model": {"model_name_or_path": MODEL},
            "dataset": {"train": str(data)},
            "card": CARD,
            "search_space": {"cutoff_len": [256, 512]},
        }
        spec = StudySpec.model_validate(written | parts)
        dumped = spec.model_dump(mode="json")
        when = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
        return StudyRecord(
            1, spec.study, when, when, 2, dumped, "d1", dumped["card"], {"model_type": "qwen2"}
        )

    return make


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRecord:
    return make_study()


def recorded_trial() -> TrialRecord:
    """A complete trial that was measured on a GPU."""
    return TrialRecord(
        id=1,
        study_id=1,
        number=7,
        outcome="complete",
        stage=None,
        hyperparameters={
            "optim": "adamw_8bit",
            "lora_target": "qv",
            "lora_rank": 16,
            "lora_alpha": 32,
            "cutoff_len": 256,
            "batch_size": 8,
            "learning_rate": 2e-4,
        },
        plan={
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 4,
            "gradient_checkpointing": True,
            "enable_liger_kernel": False,
            "per_device_eval_batch_size": 4,
            "expandable_segments": False,
        },
        seed=43,
        data_hash="d1",
        retry_of=None,
        eval_loss=1.2345,
        eval_loss_step=60,
        last_eval_loss=1.25,
        own_cutoff_eval_loss=1.2401,
        bits_per_byte=0.51,
        predicted={"required_bytes": 3 * 2**30, "allocated_bytes": 2 * 2**30},
        measured={"required_bytes": 2**31 + 2**29, "reserved_bytes": 2**31},
        predicted_required_bytes=3 * 2**30,
        measured_required_bytes=2**31 + 2**29,
        seconds={"train": 60.0},
        steps_done=90,
        steps_total=90,
        trainable_parameters=1_000_000,
        versions={"torch": "2.13.0", "transformers": "5.6.0"},
        device="NVIDIA Test",
        error=None,
        adapter_path=None,
        started_at=datetime(2026, 3, 1, 9, 0, tzinfo=UTC),
        finished_at=datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
    )


@pytest.fixture
def make_trial() -> MakeTrial:
    """A recorded trial; keywords replace its fields."""
    return lambda **fields: replace(recorded_trial(), **fields)


@pytest.fixture
def trial() -> TrialRecord:
    return recorded_trial()


@pytest.fixture
def rows() -> Rows:
    def ask(question: str, answer: str) -> Example:
        return Example((("user", question), ("assistant", answer)))

    train = (
        ask("What is 2 + 2?", "4"),
        ask("Bonjour, ça va ?", "Ça va.\nEt toi ?"),
        Example((("system", "Be brief."), ("user", "Sky?"), ("assistant", "Blue."))),
        Example((("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))),
    )
    return Rows(train, (ask("What is 3 + 3?", "6"),), "d1")
