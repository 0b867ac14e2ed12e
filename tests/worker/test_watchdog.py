"""A training that makes no progress is replaced and repeated once; a failed GPU ends the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.factories import EVALUATED, FakeListener, FakeTrainer, Script, make_ready
from vram_search.errors import VramSearchError
from vram_search.gpu import FakeReader, GpuDevice, GpuFault, GpuSample
from vram_search.protocol import STALL_SECONDS, Finished, Probed, Stage, Step
from vram_search.store import TrialRecord
from vram_search.store.retries import HANG, HOST_MEMORY
from vram_search.units import GIB
from vram_search.worker.context import RunContext
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.runner import TrialRunner
from vram_search.worker.watchdog import LEAST_SECONDS, PATIENCE_STEPS, patience_seconds

MakeContext = Callable[..., RunContext]
DEVICE = GpuDevice(0, "GPU-1", "a card", 10 * GIB, "580", "13.0", "8.9", False, False)


def hang() -> None:
    raise TrainingDiedError("no progress for 5 min; the stacks are in its log", cause=HANG)


def kill() -> None:
    raise TrainingDiedError("was killed by the kernel", was_killed=True, cause=HOST_MEMORY)


PROBE, TRAIN = Stage(stage="probe", steps_total=9), Stage(stage="train", steps_total=9)
PROBED = Probed(allocated_bytes=GIB, reserved_bytes=GIB, seconds=1)
STEP = Step(step=1, loss=2.0, learning_rate=1e-4, grad_norm=1.0, seconds=1.0)
HANGS: Script = [PROBE, hang]
KILLED: Script = [PROBE, PROBED, TRAIN, STEP, kill]
COMPLETE: Script = [
    PROBE,
    PROBED,
    TRAIN,
    STEP,
    EVALUATED,
    Finished(outcome="complete", stage="train", step=9, steps_total=9),
]


def reader() -> FakeReader:
    return FakeReader(DEVICE, [GpuSample(0.0, GIB, GIB, GIB)])


def run(context: RunContext, trials: int) -> list[TrialRecord]:
    """Runs the next proposals; returns all records of the study."""
    runner = TrialRunner(context, "a card")
    for _ in range(trials):
        proposal = context.search.ask()
        runner.begin(proposal)
        runner(proposal)
    return context.store.trials(context.record.id)


def notes(context: RunContext) -> str:
    assert isinstance(context.listener, FakeListener)
    return "\n".join(context.listener.notes)


def test_patience_is_twenty_predicted_steps_and_five_minutes_at_least() -> None:
    assert patience_seconds(60.0, has_gpu=True) == 60 * PATIENCE_STEPS
    assert patience_seconds(0.5, has_gpu=True) == LEAST_SECONDS
    assert patience_seconds(0.5, has_gpu=False) == STALL_SECONDS


def test_a_training_that_hangs_is_repeated_once(make_context: MakeContext) -> None:
    trainer = FakeTrainer([HANGS, HANGS, COMPLETE], make_ready())
    context = make_context(trainer)
    first, again, other = run(context, 3)
    assert first.outcome == again.outcome == "lost" and again.retry_of == first.number
    assert first.error is not None and first.error["cause"] == HANG
    assert "no progress for 5 min" in first.error["message"]
    assert other.retry_of is None, "a training that hung twice is not repeated"
    assert trainer.restarts == 2 and f"trial {again.number} hung again" in notes(context)


def test_a_training_that_was_killed_is_repeated_twice(make_context: MakeContext) -> None:
    context = make_context(FakeTrainer([HANGS, KILLED, COMPLETE], make_ready()))
    assert [trial.retry_of for trial in run(context, 3)] == [None, 0, 1]


def test_main_memory_that_ran_out_is_recorded_as_such_and_shrinks_no_plan(
    make_context: MakeContext,
) -> None:
    out_of_memory = Finished(
        outcome="oom",
        stage="train",
        step=2,
        steps_total=9,
        message="DefaultCPUAllocator: can't allocate memory",
        is_host_memory=True,
    )
    trainer = FakeTrainer([[PROBE, PROBED, TRAIN, STEP, out_of_memory], KILLED], make_ready())
    context = make_context(trainer)
    inside, outside = run(context, 2)
    assert len(trainer.jobs) == 2, "no smaller plan was tried"
    for trial in (inside, outside):
        assert trial.outcome == "lost" and trial.error is not None
        assert trial.error["cause"] == HOST_MEMORY and "add swap" in trial.error["remedy"]
    assert inside.error is not None
    assert inside.error["message"].startswith("main memory ran out, not the card's")


def test_a_failed_gpu_ends_the_run_after_the_trial_is_recorded(make_context: MakeContext) -> None:
    gpu = reader()
    gpu.faults = [GpuFault("a card (GPU 0): GPU is lost Xid 79", is_fatal=True)]
    context = make_context(FakeTrainer([KILLED], make_ready()), gpu)
    with pytest.raises(VramSearchError, match=r"the GPU has failed: .* GPU is lost Xid 79"):
        run(context, 1)
    assert [t.outcome for t in context.store.trials(context.record.id)] == ["lost"]


def test_an_xid_that_a_program_caused_is_noted_and_the_run_goes_on(
    make_context: MakeContext,
) -> None:
    gpu = reader()
    gpu.faults = [GpuFault("a card (GPU 0) reported Xid 31", is_fatal=False)]
    context = make_context(FakeTrainer([COMPLETE], make_ready()), gpu)
    (trial,) = run(context, 1)
    assert trial.outcome == "complete" and "reported Xid 31" in notes(context)
