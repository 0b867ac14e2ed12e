"""A lost trial's checkpoint: its repetition takes it over, and nobody else keeps one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.factories import EVALUATED, FakeListener, FakeTrainer, Script, make_ready, run_proposal
from vram_search.protocol import (
    CheckpointRefused,
    Evaluated,
    Finished,
    Probed,
    Resumed,
    Stage,
    Step,
)
from vram_search.report.words import repeat_words
from vram_search.store import TrialRecord, TrialResult
from vram_search.worker.checkpoints import (
    checkpoint_folder,
    cut_off_trial,
    remove_unneeded_checkpoints,
)
from vram_search.worker.context import RunContext
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.reconcile import enqueue_lost, reconcile

MakeContext = Callable[..., RunContext]
RUNG = Evaluated(**{**EVALUATED.model_dump(), "step": 3, "fraction": 1 / 3, "is_rung": True})
BEGIN: Script = [
    Stage(stage="probe", steps_total=9),
    Probed(allocated_bytes=None, reserved_bytes=None, seconds=1),
    Stage(stage="train", steps_total=9),
]
END = Finished(outcome="complete", stage="train", step=9, steps_total=9)


def steps(first: int, last: int) -> list[Step]:
    return [
        Step(step=n, loss=2.0 + n, learning_rate=1e-4, grad_norm=1.0, seconds=1.0)
        for n in range(first, last + 1)
    ]


def die() -> None:
    raise TrainingDiedError("it was killed", was_killed=True)


RESUMED = Resumed(step=4, steps=tuple(steps(1, 4)), evaluations=(RUNG,))
CUT_OFF: Script = [*BEGIN, *steps(1, 3), RUNG, *steps(4, 6), die]
GOES_ON: Script = [*BEGIN, RESUMED, *steps(5, 9), EVALUATED, END]


def lose_a_trial(context: RunContext) -> TrialRecord:
    """Runs a trial whose process is killed; its checkpoint is on the disk."""
    proposal = context.search.ask()
    write_checkpoint(context.checkpoints, proposal.number)
    return run_proposal(context, proposal)


def write_checkpoint(root: Path, number: int) -> None:
    (checkpoint_folder(root, number) / "step-00000004").mkdir(parents=True)


def run_next(context: RunContext) -> TrialRecord:
    enqueue_lost(context.store, context.record, context.search)
    return run_proposal(context, context.search.ask())


def folders(context: RunContext) -> list[str]:
    return sorted(path.name for path in context.checkpoints.iterdir())


def test_a_repetition_takes_over_the_checkpoint_and_keeps_each_step_once(
    make_context: MakeContext,
) -> None:
    trainer = FakeTrainer([CUT_OFF, GOES_ON], make_ready(has_gpu=False))
    context = make_context(trainer)
    lost = lose_a_trial(context)
    assert lost.outcome == "lost" and folders(context) == ["trial-0000"]
    seen: list[list[str]] = []
    trainer.on_job = lambda job: seen.append(folders(context))
    again = run_next(context)
    assert seen == [["trial-0001"]], "the checkpoint was handed over before the job was sent"
    assert trainer.jobs[1].checkpoint_folder == str(checkpoint_folder(context.checkpoints, 1))
    assert again.outcome == "complete" and again.resumed_step == 4
    assert [s.step for s in context.store.step_losses(again.id)] == list(range(1, 10))
    assert [e.step for e in context.store.evaluations(again.id)] == [3, 9]
    assert folders(context) == [], "a finished trial keeps none"
    assert repeat_words(again, lost) == "resumed at step 4: trial 0 was lost"


def test_a_repetition_keeps_the_plan_of_the_trial_that_was_cut_off(
    make_context: MakeContext,
) -> None:
    trainer = FakeTrainer([CUT_OFF, GOES_ON], make_ready(has_gpu=False))
    context = make_context(trainer)
    lose_a_trial(context)
    first = trainer.jobs[0].plan
    context.margin *= 1.5
    fitting = [c.plan for c in context.candidates(trainer.jobs[0].hyperparameters)]
    assert fitting.index(first) > 0 or len(fitting) > 1
    run_next(context)
    assert trainer.jobs[1].plan == first


def test_a_trial_after_a_killed_supervisor_goes_on_from_its_checkpoint(
    make_context: MakeContext,
) -> None:
    trainer = FakeTrainer([GOES_ON], make_ready(has_gpu=False))
    context = make_context(trainer)
    proposal = context.search.ask()
    context.store.start_trial(
        context.record.id,
        proposal.number,
        proposal.hyperparameters.model_dump(mode="json"),
        seed=1,
        data_hash="d1",
    )
    write_checkpoint(context.checkpoints, proposal.number)
    reconcile(context.store, context.record, context.search, lambda text: None)
    remove_unneeded_checkpoints(context.checkpoints, context.store.trials(context.record.id))
    again = run_proposal(context, context.search.ask())
    assert again.retry_of == proposal.number and again.resumed_step == 4


def test_a_refused_checkpoint_is_noted_and_leaves_no_resumed_step(
    make_context: MakeContext,
) -> None:
    refused = CheckpointRefused(reason="it is damaged: checkpoint.json cannot be read")
    script: Script = [*BEGIN, refused, *steps(1, 9), EVALUATED, END]
    trainer = FakeTrainer([CUT_OFF, script], make_ready(has_gpu=False))
    context = make_context(trainer)
    lose_a_trial(context)
    again = run_next(context)
    assert again.outcome == "complete" and again.resumed_step is None
    assert isinstance(context.listener, FakeListener)
    assert any("checkpoint is not used (it is damaged" in n for n in context.listener.notes)


def test_a_trial_that_changed_the_base_leaves_no_checkpoint(make_context: MakeContext) -> None:
    end = END.model_copy(update={"base_intact": False})
    script: Script = [*BEGIN, *steps(1, 9), EVALUATED, end]
    context = make_context(FakeTrainer([script], make_ready(has_gpu=False)))
    assert lose_a_trial(context).outcome == "lost"
    assert folders(context) == []


def lost_trials(context: RunContext, count: int) -> list[TrialRecord]:
    """Trials of which each repeats the one before; all were lost."""
    for number in range(count):
        trial_id = context.store.start_trial(
            context.record.id,
            number,
            {},
            seed=1,
            data_hash="d1",
            retry_of=number - 1 if number else None,
        )
        context.store.finish_trial(trial_id, TrialResult("lost"))
    return context.store.trials(context.record.id)


def test_a_repetition_that_died_early_leaves_the_checkpoint_to_the_next_one(
    make_context: MakeContext,
) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    trials = lost_trials(context, 3)
    write_checkpoint(context.checkpoints, 1)
    found = cut_off_trial(context.checkpoints, trials, retry_of=2)
    assert found is not None and found.number == 1
    assert cut_off_trial(context.checkpoints, trials, retry_of=None) is None


def test_checkpoints_that_no_trial_needs_are_deleted(make_context: MakeContext) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    trials = lost_trials(context, 2)
    for number in (0, 1, 7):
        write_checkpoint(context.checkpoints, number)
    remove_unneeded_checkpoints(context.checkpoints, trials)
    assert folders(context) == ["trial-0001"], "trial 0 has been repeated, trial 7 is unknown"


def test_the_checkpoint_of_a_trial_stays_while_its_repetition_has_not_taken_it_over(
    make_context: MakeContext,
) -> None:
    context = make_context(FakeTrainer([], make_ready()))
    trials = lost_trials(context, 2)
    write_checkpoint(context.checkpoints, 0)
    remove_unneeded_checkpoints(context.checkpoints, trials)
    assert folders(context) == ["trial-0000"]
