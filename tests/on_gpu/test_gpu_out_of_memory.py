"""Memory that really runs out, in each stage: torch's allocator says no, the record says where.

A cap that is lowered when a stage begins makes it run out there; the bytes are real. `make gpu`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vram_search.data import Example
from vram_search.protocol import AnyEvent, Finished, LoadJob, Stage, TrialJob
from vram_search.spec import MemoryPlan
from vram_search.spec.dataset import DatasetSpec
from vram_search.spec.study import TrainingSpec
from vram_search.train import calibrate
from vram_search.train import model as base_model
from vram_search.train.__main__ import explain
from vram_search.train.examples import encode
from vram_search.train.run import EncodedDataset, Trial
from vram_search.train.tokenizer import byte_tokenizer
from vram_search.units import MIB

pytestmark = pytest.mark.gpu
ROOM_BYTES = 40 * MIB
"""Left to a stage: enough for an adapter and cuBLAS's workspace, not for a layer or the logits."""
CUTOFF, MICRO_BATCH, EVAL_BATCH = calibrate.CUTOFF_LEN, 4, 3


@pytest.fixture(scope="module")
def load_job(tmp_path_factory: pytest.TempPathFactory) -> LoadJob:
    """Two layers of Qwen2.5-0.5B's shape with random weights."""
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text(json.dumps(calibrate.CONFIG))
    (folder / "rows.json").write_text("[]")
    return LoadJob(
        model_name_or_path=str(folder),
        random_weights=True,
        tokenizer=None,
        dataset=DatasetSpec(train=str(folder / "rows.json")),
        seed=1,
        cutoff_lens=(CUTOFF,),
        eval_cutoff_len=CUTOFF,
    )


@pytest.fixture(scope="module")
def base(load_job: LoadJob) -> Any:
    return base_model.load_base(load_job)


@pytest.fixture(autouse=True)
def uncapped() -> Iterator[None]:
    yield
    base_model.limit_allocator(torch.cuda.get_device_properties(0).total_memory)
    base_model.free_caches()


@pytest.fixture(scope="module")
def encoded() -> EncodedDataset:
    tokenizer = byte_tokenizer()
    row = encode(Example((("user", "Why?"), ("assistant", "so " * CUTOFF))), tokenizer)
    return EncodedDataset([row] * 8, [row] * EVAL_BATCH, tokenizer)


@pytest.fixture
def job(tmp_path: Path) -> TrialJob:
    return calibrate.trial_job().model_copy(
        update={
            "plan": MemoryPlan(
                per_device_train_batch_size=MICRO_BATCH,
                gradient_accumulation_steps=1,
                gradient_checkpointing=False,
                per_device_eval_batch_size=EVAL_BATCH,
            ),
            "training": TrainingSpec(max_steps=3, rungs=(0.67,)),
            "adapter_folder": str(tmp_path / "adapter"),
        }
    )


def leave(room_bytes: int) -> tuple[int, int]:
    """Lowers the allocator's cap to what it has reserved and so much more; what is allocated now,
    and the cap."""
    base_model.free_caches()
    cap_bytes = torch.cuda.memory_reserved() + room_bytes
    base_model.limit_allocator(cap_bytes)
    return torch.cuda.memory_allocated(), cap_bytes


@pytest.mark.parametrize(
    ("stage", "step", "rows"),
    [("probe", 1, MICRO_BATCH), ("train", 1, MICRO_BATCH), ("eval", 2, EVAL_BATCH)],
)
def test_memory_that_runs_out_is_named_with_stage_step_batch_request_and_parts(
    base: Any, encoded: EncodedDataset, job: TrialJob, stage: str, step: int, rows: int
) -> None:
    bounds: list[tuple[int, int]] = []

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Stage) and event.stage == stage and not bounds:
            bounds.append(leave(ROOM_BYTES))

    finished: Finished = Trial(base, encoded, job, listen, lambda: False).run()
    print(finished.model_dump_json(include={"message", "requested_bytes", "parts"}))
    assert (finished.outcome, finished.stage, finished.step) == ("oom", stage, step)
    assert finished.batch_shape == (rows, CUTOFF)
    assert finished.requested_bytes is not None and finished.requested_bytes > MIB
    assert finished.parts["base_weights"] > 30 * MIB and finished.parts["adapter"] > 0
    assert ("optimizer" in finished.parts) == (stage == "eval"), "states exist after a step"
    (before, cap_bytes) = bounds[0]
    assert before - MIB <= sum(finished.parts.values()) <= cap_bytes


def test_base_that_does_not_fit_is_a_passing_fault_with_both_figures(load_job: LoadJob) -> None:
    leave(64 * MIB)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        base_model.load_base(load_job)
    fault = explain(caught.value)
    assert fault is not None and fault.is_passing
    print(fault.message)
    assert "while the base model was loaded" in fault.message
    assert "Tried to allocate" in fault.message and "were loaded" in fault.message
