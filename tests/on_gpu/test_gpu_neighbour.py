"""Another program takes the whole card between two trials. Needs a card to itself. `make gpu`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vram_search.gpu import NvmlReader
from vram_search.protocol import AnyEvent, Finished, TrialJob
from vram_search.spec.card_memory import CardMemory
from vram_search.units import GIB, MIB
from vram_search.worker.budget import Budget
from vram_search.worker.resident import ResidentTrainer

pytestmark = pytest.mark.gpu
LEFT_BYTES = 64 * MIB
NEIGHBOUR = f"""
import torch
torch.zeros(1, device="cuda")
print("here", flush=True)
input()
held = torch.empty(torch.cuda.mem_get_info()[0] - {LEFT_BYTES}, dtype=torch.uint8, device="cuda")
print("took", flush=True)
input()
"""


class Neighbour:
    """A process that takes what is left of the card when told to, and holds it until it ends."""

    def __init__(self, gpu_uuid: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu_uuid},
        )

    def take(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        assert self.process.stdout.readline() == "here\n"
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "took\n"

    def leave(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def reader() -> NvmlReader:
    return NvmlReader()


@pytest.fixture
def trainer(
    tmp_path: Path, reader: NvmlReader, make_trainer: Callable[..., ResidentTrainer]
) -> Iterator[ResidentTrainer]:
    resident = make_trainer(tmp_path, gpu_uuid=reader.device().uuid)
    yield resident
    resident.replace()


@pytest.fixture
def neighbour(reader: NvmlReader) -> Iterator[Neighbour]:
    other = Neighbour(reader.device().uuid)
    yield other
    other.leave()


def test_card_that_a_neighbour_takes_is_an_out_of_memory_with_him_named_and_passes_with_him(
    trainer: ResidentTrainer,
    reader: NvmlReader,
    neighbour: Neighbour,
    tmp_path: Path,
    make_job: Callable[..., TrialJob],
) -> None:
    trainer.ready()
    cap = trainer.job.cap_bytes
    assert cap is not None
    budget = Budget(cap, cap, CardMemory(17 * GIB, 0, GIB), reader)
    budget.follow(reader.sample(trainer.pid))  # the neighbour's context is there already
    before, taken = budget.now_bytes, []

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Finished):
            taken.append(-budget.follow(reader.sample(trainer.pid)))

    job = make_job(tmp_path, 1, 2, "adamw_8bit")
    assert trainer.run(job, lambda event: None, lambda evaluated: False).outcome == "complete"
    neighbour.take()
    began = time.monotonic()
    failed = trainer.run(job, listen, lambda evaluated: False)
    own_seconds = time.monotonic() - began
    assert (failed.outcome, failed.stage) == ("oom", "probe")
    assert failed.requested_bytes is not None and failed.requested_bytes > 0
    assert failed.parts["base_weights"] > 200 * MIB
    assert taken[0] > GIB and budget.now_bytes == before - taken[0]

    neighbour.leave()
    began = time.monotonic()
    ready = trainer.ready()
    print(
        f"out of memory after {own_seconds:.1f} s; the new process waited for "
        f"{time.monotonic() - began:.1f} s, of it "
        f"{ready.seconds - ready.import_seconds:.1f} to load"
    )
    assert trainer.starts == 2
    budget.refresh(trainer.pid, print)
    assert budget.now_bytes >= before
    assert trainer.run(job, listen, lambda evaluated: False).outcome == "complete"
