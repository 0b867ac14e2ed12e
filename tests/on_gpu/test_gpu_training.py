"""What holds only on a CUDA GPU: the allocator's peaks, its cap, the resident base. `make gpu`.

A trial's cost is its micro-batches, those of the probe included: 0.3 s each for this model on an
H200, whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vram_search.gpu import NvmlReader
from vram_search.protocol import LEAK_BYTES, AnyEvent, Finished, Probed, TrialJob
from vram_search.units import GIB, MIB
from vram_search.worker.resident import ResidentTrainer

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, make_trainer: Callable[..., ResidentTrainer]
) -> Iterator[ResidentTrainer]:
    resident = make_trainer(tmp_path_factory.mktemp("trainer"))
    yield resident
    resident.replace()


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
    make_job: Callable[..., TrialJob],
) -> None:
    job = make_job(tmp_path, number, micro_batch, optim, accumulation=accumulation, rungs=(0.5,))
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
    trainer: ResidentTrainer, tmp_path: Path, make_job: Callable[..., TrialJob]
) -> None:
    trainer.ready()
    starts = trainer.starts
    failed, _ = run(trainer, make_job(tmp_path, 0, 32, "adamw_8bit"))
    assert failed.outcome == "oom"
    assert failed.requested_bytes is not None and failed.requested_bytes > MIB
    assert (failed.stage, failed.step, failed.batch_shape) == ("probe", 1, (32, 512))
    assert failed.parts["base_weights"] > 200 * MIB
    assert trainer.job.cap_bytes is not None
    assert sum(failed.parts.values()) <= trainer.job.cap_bytes
    assert trainer.starts == starts + 1


def test_nvml_sees_the_device() -> None:
    reader = NvmlReader()
    sample = reader.sample(None)
    assert reader.device().total_bytes > GIB
    assert 0 <= sample.device_bytes <= reader.device().total_bytes
