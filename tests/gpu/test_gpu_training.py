"""What holds only on a CUDA GPU: the allocator's peaks, its cap, the resident base. `make gpu`.

A trial's cost is its micro-batches, those of the probe included: 0.3 s each for this model on an
H200, whatever their size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vram_search.gpu import NvmlReader
from vram_search.protocol import LEAK_BYTES, AnyEvent, Finished, LoadJob, Probed, TrialJob
from vram_search.resources import shipped
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.spec.study import DatasetSpec, TrainingSpec
from vram_search.units import GIB, MIB
from vram_search.worker.resident import ResidentTrainer

pytestmark = pytest.mark.gpu
CAP_BYTES = 16 * GIB
LONGEST_ANSWER = 560
"""Characters, a token each: with its question beyond the cutoff of 512."""
STEPS = 2


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResidentTrainer]:
    resident = make_trainer(tmp_path_factory.mktemp("trainer"))
    yield resident
    resident.replace()


def make_trainer(folder: Path, gpu_uuid: str | None = None) -> ResidentTrainer:
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
        hyperparameters=Hyperparameters(
            optim=optim,
            lora_target="qv",
            lora_rank=8,
            lora_alpha=16,
            cutoff_len=512,
            batch_size=micro_batch * accumulation,
            learning_rate=1e-4,
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


def run(trainer: ResidentTrainer, job: TrialJob) -> tuple[Finished, list[AnyEvent]]:
    events: list[AnyEvent] = []
    return trainer.run(job, events.append, lambda evaluated: False), events


@pytest.mark.parametrize(
    ("number", "micro_batch", "accumulation", "optim"),
    [(0, 1, 1, "lion_8bit"), (1, 2, 3, "adamw_8bit"), (2, 4, 2, "adamw_torch_fused")],
    ids=["1x1 ckpt", "2x3", "4x2 ckpt"],
)
def test_probe_bounds_a_training_names_its_bytes_and_nothing_is_left(
    trainer: ResidentTrainer,
    tmp_path: Path,
    number: int,
    micro_batch: int,
    accumulation: int,
    optim: str,
) -> None:
    job = trial_job(tmp_path, number, micro_batch, optim, accumulation=accumulation, rungs=(0.5,))
    finished, events = run(trainer, job)
    assert finished.outcome == "complete", finished.message
    probed = next(event for event in events if isinstance(event, Probed))
    assert finished.allocated_bytes is not None and probed.allocated_bytes is not None
    assert finished.allocated_bytes <= probed.allocated_bytes * 1.01
    assert sum(probed.parts.values()) == pytest.approx(probed.allocated_bytes, rel=0.01)
    assert probed.step_seconds is not None and probed.step_seconds > 0
    assert finished.base_intact
    assert finished.survivors == () and abs(finished.leaked_bytes) <= LEAK_BYTES
    assert trainer.starts == 1


def test_cap_makes_a_real_out_of_memory_and_the_process_is_replaced(
    trainer: ResidentTrainer, tmp_path: Path
) -> None:
    trainer.ready()
    starts = trainer.starts
    failed, _ = run(trainer, trial_job(tmp_path, 0, 32, "adamw_8bit"))
    assert failed.outcome == "oom"
    assert failed.requested_bytes is not None and failed.requested_bytes > MIB
    assert (failed.stage, failed.step, failed.batch_shape) == ("probe", 1, (32, 512))
    assert failed.parts["base_weights"] > 200 * MIB
    assert sum(failed.parts.values()) <= CAP_BYTES
    assert trainer.starts == starts + 1


def test_nvml_sees_the_device() -> None:
    reader = NvmlReader()
    sample = reader.sample(None)
    assert reader.device().total_bytes > GIB
    assert 0 <= sample.device_bytes <= reader.device().total_bytes
