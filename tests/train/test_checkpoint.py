"""A training that was cut off goes on from its checkpoint, with the losses of a whole one."""

from __future__ import annotations

import errno
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.factories import make_point
from vram_search.protocol import (
    AnyEvent,
    CheckpointRefused,
    Evaluated,
    Resumed,
    Step,
    TrialJob,
)
from vram_search.spec import MemoryPlan
from vram_search.spec.study import TrainingSpec
from vram_search.train import checkpoint as checkpoint_module
from vram_search.train import run as run_module
from vram_search.train import trainer as trainer_module
from vram_search.train.checkpoint import checkpoint_identity, find_checkpoint
from vram_search.train.evaluate import Losses
from vram_search.train.run import EncodedDataset, Trial
from vram_search.train.trainer import CheckpointClock

LOADED = {"tokens": "t1", "torch": "2"}
AT_EVERY_STEP = 1e-6
"""Minutes between checkpoints."""


class CutOffError(Exception):
    """Stands for a kill: nothing of the trial catches it."""


@pytest.fixture(autouse=True)
def checkpoints_at_any_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SHARE", math.inf)


def make_job(folder: Path, optim: str = "adamw_torch_fused", **changes: Any) -> TrialJob:
    """A job of 7 steps over three and a half epochs, with dropout and an evaluation at step 2."""
    fields: dict[str, Any] = {
        "number": 0,
        "hyperparameters": make_point(
            optim=optim,
            lora_target="qv",
            lora_rank=4,
            cutoff_len=128,
            batch_size=4,
            learning_rate=1e-2,
            lora_dropout=0.1,
        ),
        "target_modules": ("q_proj", "v_proj"),
        "plan": MemoryPlan(
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
            per_device_eval_batch_size=2,
        ),
        "training": TrainingSpec(max_steps=7, rungs=(0.3,), checkpoint_every=AT_EVERY_STEP),
        "eval_cutoff_len": 128,
        "seed": 3,
        "adapter_folder": str(folder / "adapter"),
        "checkpoint_folder": str(folder / "checkpoints"),
    }
    return TrialJob(**{**fields, **changes})


def train(
    base: Any,
    encoded: EncodedDataset,
    job: TrialJob,
    cut_off_after: int | None = None,
    loaded: dict[str, str] = LOADED,
) -> list[AnyEvent]:
    """Returns the events of a training; it is cut off when it has reported a step."""
    events: list[AnyEvent] = []

    def send(event: AnyEvent) -> None:
        events.append(event)
        if isinstance(event, Step) and event.step == cut_off_after:
            raise CutOffError

    try:
        Trial(base, encoded, job, send, lambda: False, loaded).run()
    except CutOffError:
        disturb_random_numbers()
    return events


def disturb_random_numbers() -> None:
    """A new process has other random numbers."""
    torch.manual_seed(987)
    random.seed(987)
    np.random.seed(987)


def figures(events: list[AnyEvent]) -> list[Any]:
    """Losses, learning rates and evaluations, without seconds; those of a checkpoint first."""
    resumed = [e for e in events if isinstance(e, Resumed)]
    known = [*resumed[0].steps, *resumed[0].evaluations] if resumed else []
    seen = [e for e in [*known, *events] if isinstance(e, (Step, Evaluated))]
    return sorted(
        (e.step, e.event, e.model_dump(exclude={"seconds", "allocated_bytes"})) for e in seen
    )


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


@pytest.mark.parametrize(("optim", "last_step"), [("adamw_torch_fused", 3), ("adamw_8bit", 6)])
def test_a_cut_off_training_goes_on_bit_by_bit(
    base: Any,
    encoded: EncodedDataset,
    tmp_path: Path,
    optim: str,
    last_step: int,
) -> None:
    whole = train(base, encoded, make_job(tmp_path, optim, checkpoint_folder=None))
    kept = weights(tmp_path / "adapter")
    train(base, encoded, make_job(tmp_path, optim), cut_off_after=last_step)
    shutil.rmtree(tmp_path / "adapter")
    events = train(base, encoded, make_job(tmp_path, optim))
    resumed = [e for e in events if isinstance(e, Resumed)]
    assert [e.step for e in resumed] == [last_step - 1], "the last step was reported, not saved"
    assert figures(events) == figures(whole)
    after = weights(tmp_path / "adapter")
    assert all(torch.equal(kept[name], after[name]) for name in kept)


def test_the_best_adapter_before_the_cut_is_kept_with_its_loss(
    base: Any,
    encoded: EncodedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(base, encoded, make_job(tmp_path), cut_off_after=4)
    early = weights(tmp_path / "adapter")
    shutil.rmtree(tmp_path / "adapter")
    worse = Losses((100.0,), (1,))
    monkeypatch.setattr(run_module, "evaluate", lambda *arguments: worse)
    finished = Trial(
        base, encoded, make_job(tmp_path), lambda event: None, lambda: False, LOADED
    ).run()
    assert finished.outcome == "complete" and finished.best_step == 2
    after = weights(tmp_path / "adapter")
    assert all(torch.equal(early[name], after[name]) for name in early)


@pytest.fixture(scope="module")
def trained(base: Any, encoded: EncodedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training that was cut off after its second step."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "CHECKPOINT_SHARE", math.inf)
        train(base, encoded, make_job(folder), cut_off_after=2)
    (found,) = (folder / "checkpoints").iterdir()
    return found


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of that checkpoint."""
    return shutil.copytree(trained, tmp_path / "checkpoints" / trained.name)


def test_checkpoints_hold_safetensors_and_json_alone(checkpoint: Path) -> None:
    names = {path.suffix for path in checkpoint.rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def flip_a_bit(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "trainer_state.json").unlink()


def garble(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "state.safetensors has changed"),
        (flip_a_bit, "state.safetensors has changed"),
        (lose_a_file, "trainer_state.json has changed or is missing"),
        (garble, "checkpoint.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_not_used(
    checkpoint: Path,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    damage(checkpoint)
    found, reason = find_checkpoint(
        checkpoint.parent, checkpoint_identity(LOADED, make_job(checkpoint.parents[1]))
    )
    assert found is None and words in reason


@pytest.mark.parametrize(
    ("loaded", "changes", "words"),
    [
        ({**LOADED, "tokens": "t2"}, {}, "other tokens"),
        ({**LOADED, "torch": "3"}, {}, "other torch"),
        ({"tokens": "t1"}, {}, "other torch"),
        (LOADED, {"seed": 4}, "other seed"),
        (LOADED, {"eval_cutoff_len": 64}, "other eval_cutoff_len"),
    ],
)
def test_a_checkpoint_of_another_training_is_not_used(
    checkpoint: Path,
    loaded: dict[str, str],
    changes: dict[str, Any],
    words: str,
) -> None:
    identity = checkpoint_identity(loaded, make_job(checkpoint.parents[1], **changes))
    found, reason = find_checkpoint(checkpoint.parent, identity)
    assert found is None and words in reason


def test_a_half_written_checkpoint_is_passed_over(checkpoint: Path) -> None:
    shutil.copytree(checkpoint, checkpoint.with_name("step-00000005.part"))
    found, reason = find_checkpoint(
        checkpoint.parent, checkpoint_identity(LOADED, make_job(checkpoint.parents[1]))
    )
    assert found is not None and found.manifest.step == 1 and not reason


def test_a_trial_starts_at_step_one_where_its_checkpoint_is_refused(
    base: Any, encoded: EncodedDataset, checkpoint: Path
) -> None:
    flip_a_bit(checkpoint)
    events = train(base, encoded, make_job(checkpoint.parents[1]))
    assert [type(e) for e in events if isinstance(e, (CheckpointRefused, Resumed))] == [
        CheckpointRefused
    ]
    assert [e.step for e in events if isinstance(e, Step)] == list(range(1, 8))


def test_a_full_disk_ends_no_training(
    base: Any,
    encoded: EncodedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(tensors: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint_module, "save_file", fail)
    finished = Trial(
        base, encoded, make_job(tmp_path), lambda event: None, lambda: False, LOADED
    ).run()
    assert finished.outcome == "complete"
    assert list(tmp_path.rglob("*.part")) == []


def test_file_system_without_fsync_keeps_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every checkpoint of a network share was left out."""
    (tmp_path / "state").write_text("whole")

    def fail_with(number: int) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)
        checkpoint_module._flush(tmp_path)

    fail_with(errno.EINVAL)
    with pytest.raises(OSError, match="No space"):
        fail_with(errno.ENOSPC)


def test_a_checkpoint_that_took_long_delays_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock_module = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(trainer_module, "time", clock_module)
    monkeypatch.setattr(trainer_module, "CHECKPOINT_SHARE", 0.01)
    clock = CheckpointClock(600)
    state = SimpleNamespace(global_step=1, max_steps=100)

    def is_due(at: float) -> bool:
        now[0] = at
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        clock.on_step_end(None, state, control)
        return control.should_save

    assert not is_due(599) and is_due(600)
    now[0] = 620  # it took 20 s, which is 1 % of 2000 s
    clock.on_save(None, state, None)
    assert not is_due(2619) and is_due(2620)


def test_no_checkpoint_is_due_at_the_last_step_or_after_a_verdict_to_stop() -> None:
    clock = CheckpointClock(0)
    for step, stops in ((100, False), (50, True)):
        control = SimpleNamespace(should_save=False, should_training_stop=stops)
        clock.on_step_end(None, SimpleNamespace(global_step=step, max_steps=100), control)
        assert not control.should_save
