"""One trial from its plan to its record, with each thing that can go wrong on the card."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.factories import EVALUATED, FakeListener, FakeTrainer, Script, make_ready, run_proposal
from vram_search.gpu import SYSMEM_FALLBACK_HINT, FakeReader, GpuDevice, GpuSample
from vram_search.protocol import Finished, Probed, Stage, Step
from vram_search.search.memory_constraint import MEMORY_CONSTRAINT
from vram_search.spec import Hyperparameters, MemoryPlan
from vram_search.store import TrialRecord
from vram_search.units import GIB, MIB
from vram_search.worker.context import RunContext
from vram_search.worker.margin import learnt_margin
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.result import load_seconds

MakeRoom = Callable[..., RunContext]
PID = 42
CARD = 10 * GIB
DEVICE = "NVIDIA GeForce RTX 4090"
LINUX = GpuDevice(0, "GPU-1", DEVICE, CARD, "580", "13.0", "8.9", False, False)
WINDOWS = GpuDevice(0, "GPU-1", DEVICE, CARD, "580", "13.0", "8.9", True, True)
SPILLED = [0.886, 0.913]
"""Shares of a card that were in use in a forced spill: RTX 5060 Ti (`gpu/spill.py`)."""
PARTS = {"base_weights": 3 * GIB, "logits": 2 * GIB}


def sample(used: int, process: int | None = None, **more: Any) -> GpuSample:
    return GpuSample(0.0, used, used, process, **more)


def scripted(*scripts: Script) -> FakeTrainer:
    """A training process on the card of 10 GiB; one script for each training."""
    ready = make_ready(device=DEVICE, versions={"torch": "2"}, allocated_bytes=GIB)
    return FakeTrainer(scripts, ready, pid=PID)


PROBE = Stage(stage="probe", steps_total=9)
TRAIN = Stage(stage="train", steps_total=9)
PROBED = Probed(
    allocated_bytes=5 * GIB, reserved_bytes=6 * GIB, seconds=2, step_seconds=1.0, parts=PARTS
)


def step(number: int, seconds: float = 1.0) -> Step:
    return Step(step=number, loss=2.0, learning_rate=1e-4, grad_norm=1.0, seconds=seconds)


def finished(outcome: Any = "complete", **more: Any) -> Finished:
    figures = {"stage": "train", "step": 9, "steps_total": 9, "allocated_bytes": 5 * GIB}
    return Finished(outcome=outcome, **{**figures, "reserved_bytes": 6 * GIB, **more})


def out_of_memory(reserved: int = CARD, **more: Any) -> Finished:
    known = {
        "message": "CUDA out of memory",
        "requested_bytes": 512 * MIB,
        "batch_shape": (16, 2048),
        "parts": PARTS,
    }
    return finished("oom", reserved_bytes=reserved, **{**known, **more})


def complete(**more: Any) -> Script:
    return [PROBE, PROBED, TRAIN, step(1), EVALUATED, finished(**more)]


def run(context: RunContext) -> TrialRecord:
    return run_proposal(context, context.search.ask())


def told(context: RunContext) -> FrozenTrial:
    """Optuna's record of the only trial."""
    return context.search._study.trials[0]


def measured(trial: TrialRecord) -> dict[str, Any]:
    assert trial.measured is not None
    return trial.measured


def error(trial: TrialRecord) -> dict[str, Any]:
    assert trial.error is not None
    return trial.error


def notes(context: RunContext) -> str:
    assert isinstance(context.listener, FakeListener)
    return "\n".join(context.listener.notes)


def test_run_that_outgrew_its_probe_is_recorded_and_noted_and_goes_on(
    make_context: MakeRoom,
) -> None:
    context = make_context(scripted(complete(allocated_bytes=round(5.1 * GIB))))
    trial = run(context)
    assert trial.outcome == "complete" and trial.eval_loss == 1.5
    assert measured(trial)["probe_miss"] == pytest.approx(1.02)
    assert "1.020 times the probe's" in notes(context)


def test_run_within_one_per_cent_of_its_probe_is_no_miss(make_context: MakeRoom) -> None:
    context = make_context(scripted(complete(allocated_bytes=round(5.05 * GIB))))
    assert "probe_miss" not in measured(run(context))
    assert notes(context) == ""


def test_parts_leak_and_step_time_are_recorded(make_context: MakeRoom) -> None:
    survivors = ("float32 [49152, 576] 108 MiB",)
    end = finished(leaked_bytes=108 * MIB, survivors=survivors)
    steps = [step(1, 9.0), step(2, 1.25), step(3, 1.75)]
    found = measured(run(make_context(scripted([PROBE, PROBED, TRAIN, *steps, EVALUATED, end]))))
    assert found["parts"] == PARTS
    assert found["leaked_bytes"] == 108 * MIB and found["survivors"] == list(survivors)
    assert found["base_intact"] is True
    assert found["step_seconds"] == 1.5, "without the first, which warms up"
    assert found["probe_step_seconds"] == 1.0


def test_what_nvml_saw_is_recorded_for_the_trial_and_for_each_phase(make_context: MakeRoom) -> None:
    seen = [
        sample(CARD // 2, 4 * GIB, temperature_celsius=50, sm_clock_mhz=1980),
        sample(
            CARD // 2,
            5 * GIB,
            temperature_celsius=70,
            sm_clock_mhz=1500,
            power_watts=200.0,
            utilization_percent=90,
        ),
    ]
    reader = FakeReader(LINUX, [sample(GIB)])
    waiting: Script = [PROBE, *shown(reader, *seen), *complete()[1:]]
    found = measured(run(make_context(scripted(waiting), reader)))
    assert found["process_bytes"] == 5 * GIB and found["process_bytes_source"] == "nvml"
    assert found["temperature_celsius"] == 70
    assert found["least_sm_clock_mhz"] == 1500 and 1500 <= found["sm_clock_mhz"] < 1980
    assert found["utilization_percent"] == 90 and found["power_watts"] == 200
    assert found["by_phase"]["probe"]["process_bytes"] == 5 * GIB
    assert all(phase["seconds"] >= 0 for phase in found["by_phase"].values())


def test_trial_that_changed_the_base_is_lost_whatever_it_scored(make_context: MakeRoom) -> None:
    context = make_context(scripted(complete(base_intact=False)))
    trial = run(context)
    assert trial.outcome == "lost" and trial.eval_loss is None and trial.adapter_path is None
    assert measured(trial)["base_intact"] is False
    assert "base model's weights have changed" in error(trial)["message"]
    assert told(context).state == TrialState.FAIL


@pytest.mark.parametrize("stage", ["probe", "train", "eval"])
def test_out_of_memory_says_where_and_with_which_bytes_and_teaches_everybody(
    make_context: MakeRoom, stage: str
) -> None:
    ran_out: Script = [PROBE, out_of_memory(stage=stage, step=3)]
    context = make_context(scripted(*[ran_out] * 3))
    before = context.margin
    trial = run(context)
    assert trial.outcome == "oom"
    assert error(trial) == {
        "stage": stage,
        "step": 3,
        "message": "CUDA out of memory",
        "requested_bytes": 512 * MIB,
        "batch_shape": [16, 2048],
        "parts": PARTS,
    }
    assert told(context).state == TrialState.PRUNED
    assert told(context).constraints[MEMORY_CONSTRAINT] > 0
    assert told(context).user_attrs["outcome"] == "oom"
    trials = context.store.trials(context.record.id)
    assert learnt_margin(context.prepared.shape, trials, DEVICE) > before


def test_seconds_of_refuted_plans_are_kept_apart(make_context: MakeRoom) -> None:
    context = make_context(scripted([PROBE, out_of_memory(stage="probe")], complete()))
    first = run(context)
    assert first.outcome == "complete" and first.seconds is not None
    assert set(first.seconds) == {"plan", "load", "oom"}
    assert "between" not in first.seconds, "nothing ran before it"


def test_seconds_between_trials_are_recorded(make_context: MakeRoom) -> None:
    ours = {"probe": 1.0, "train": 2.0, "eval": 3.0, "save": 4.0}
    context = make_context(scripted(complete(seconds=ours), complete(seconds=ours)))
    run(context)
    seconds = run(context).seconds
    assert seconds is not None and set(seconds) == {"between", "plan", "load", *ours}
    assert 0 < seconds["between"] < 10


def test_wait_for_a_process_is_parted_into_imports_and_loading() -> None:
    ready = scripted().ready().model_copy(update={"seconds": 20.0, "import_seconds": 18.0})
    assert load_seconds(ready, 25.0) == {"load": 2.0, "imports": 23.0}
    assert load_seconds(ready, 0.5) == {"load": 0.5}, "the rest was over before anybody waited"


def shown(reader: FakeReader, *readings: GpuSample) -> list[Callable[[], object]]:
    """The monitor sees each of the readings before the script goes on."""

    def show(reading: GpuSample) -> None:
        reader.show(reading)
        assert reader.wait_until_replayed(20)

    return [partial(show, reading) for reading in readings]


def spill(reader: FakeReader) -> Script:
    """Steps collapse while the card is full; nobody stops them."""
    return [
        *(PROBE, PROBED, TRAIN, step(1), step(2)),
        *shown(reader, *(sample(round(share * CARD)) for share in SPILLED)),
        *(step(number, 9.0) for number in (3, 4, 5)),
        EVALUATED,
        finished("complete"),
    ]


def test_spill_on_windows_is_an_out_of_memory_and_a_smaller_plan_follows(
    make_context: MakeRoom,
) -> None:
    reader = FakeReader(WINDOWS, [sample(GIB)])
    trainer = scripted(spill(reader), spill(reader), spill(reader))
    context = make_context(trainer, reader)
    trial = run(context)
    assert trial.outcome == "oom" and trial.steps_done == 4
    assert error(trial)["stage"] == "train" and error(trial)["step"] == 4
    assert error(trial)["remedy"] == SYSMEM_FALLBACK_HINT
    assert "9.0 s in place of 1.0 s" in error(trial)["message"]
    assert trainer.restarts == len(trainer.jobs) == 3
    sizes = [candidate_bytes(context, trial, job.plan) for job in trainer.jobs]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def candidate_bytes(context: RunContext, trial: TrialRecord, plan: MemoryPlan) -> int:
    found = context.candidates(Hyperparameters.model_validate(trial.hyperparameters))
    return next(c.estimate.required_bytes for c in found if c.plan == plan)


def test_same_readings_on_linux_end_nothing(make_context: MakeRoom) -> None:
    reader = FakeReader(LINUX, [sample(GIB)])
    trainer = scripted(spill(reader))
    assert run(make_context(trainer, reader)).outcome == "complete"
    assert trainer.restarts == 0


def neighbour_takes(reader: FakeReader, taken: int) -> Script:
    """Our process stays at 1 GiB and the card's use grows by `taken`; then memory runs out."""
    readings = shown(reader, sample(GIB, GIB), sample(GIB + taken, GIB))
    return [PROBE, *readings, out_of_memory(stage="train")]


def test_memory_that_a_neighbour_took_is_said_and_teaches_no_margin(make_context: MakeRoom) -> None:
    reader = FakeReader(LINUX, [sample(GIB)])
    context = make_context(scripted(neighbour_takes(reader, 6 * GIB), complete()), reader)
    trial = run(context)
    assert trial.outcome == "complete"
    assert "another program took 6.00 GiB of the card during the trial" in notes(context)
    assert "required_ratio_above" not in measured(trial)
    assert context.budget_bytes == CARD - 6 * GIB
    chosen = candidate_bytes(context, trial, MemoryPlan.model_validate(trial.plan))
    assert chosen <= CARD - 6 * GIB, "the next plan fits what is left"


def test_neighbour_that_did_not_move_is_not_blamed(make_context: MakeRoom) -> None:
    reader = FakeReader(LINUX, [sample(GIB)])
    trial = run(make_context(scripted(neighbour_takes(reader, 0), complete()), reader))
    assert measured(trial)["required_ratio_above"] > 1


def test_neighbour_on_a_large_card_that_plays_a_small_one_is_not_blamed(
    make_context: MakeRoom,
) -> None:
    big = GpuDevice(0, "GPU-2", "NVIDIA H200", 8 * CARD, "580", "13.0", "9.0", False, False)
    reader = FakeReader(big, [sample(GIB)])
    context = make_context(scripted(neighbour_takes(reader, 20 * GIB), complete()), reader)
    context.budget.emulated = "emulated 10 GB on NVIDIA H200"
    trial = run(context)
    assert measured(trial)["required_ratio_above"] > 1
    assert measured(trial)["emulated"] == "emulated 10 GB on NVIDIA H200"


def died(*, is_out_of_memory: bool) -> Script:
    def die() -> None:
        raise TrainingDiedError("it ended with code 1", is_out_of_memory=is_out_of_memory)

    return [PROBE, PROBED, TRAIN, step(1), die]


def test_process_that_its_c_code_ended_for_want_of_memory_gets_a_smaller_plan(
    make_context: MakeRoom,
) -> None:
    trainer = scripted(died(is_out_of_memory=True), complete())
    trial = run(make_context(trainer))
    assert trial.outcome == "complete" and trainer.restarts == 1
    assert trainer.jobs[0].plan != trainer.jobs[1].plan


def test_process_that_died_otherwise_makes_its_trial_lost(make_context: MakeRoom) -> None:
    trainer = scripted(died(is_out_of_memory=False))
    context = make_context(trainer)
    trial = run(context)
    assert trial.outcome == "lost" and trainer.restarts == 1
    assert error(trial) == {"stage": "train", "step": 1, "message": "it ended with code 1"}
    assert trial.device == DEVICE and trial.versions == {"torch": "2"}
    assert trial.seconds is not None and set(trial.seconds) == {"plan", "load", "lost"}
    assert told(context).state == TrialState.FAIL
