"""The resident process is trusted until a trial shows that it must not be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import EVALUATED, make_point, make_ready, make_trial_job
from vram_search.errors import InputError
from vram_search.protocol import (
    LEAK_BYTES,
    Alive,
    AnyEvent,
    Evaluated,
    Finished,
    LoadFailed,
    LoadJob,
    Resumed,
    TrialJob,
)
from vram_search.spec.dataset import DatasetSpec
from vram_search.worker import resident
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.resident import LATER_LOAD_ATTEMPTS, LOAD_ATTEMPTS, ResidentTrainer

FULL = LoadFailed(message="memory ran out while the base model was loaded", is_passing=True)


class Process:
    """Stands for `TrainingProcess`; each takes the next of `answers`, one event a job."""

    answers: list[list[AnyEvent | Exception]]
    alive: list[Process]

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.sent: list[Any] = []
        self._events = self.answers.pop(0)
        self.alive.append(self)

    def send(self, job: Any) -> None:
        self.sent.append(job)

    def receive(self, patience_seconds: float = 0.0) -> AnyEvent:
        self.patience_seconds = patience_seconds
        event = self._events.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    def stop(self) -> None:
        self.alive.remove(self)


READY = make_ready()
StartTrainer = Callable[..., ResidentTrainer]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StartTrainer:
    """`start([event, ...], ...)`: a trainer, and what each of its processes will say."""

    def start_(*answers: list[AnyEvent | Exception]) -> ResidentTrainer:
        Process.answers, Process.alive = list(answers), []
        monkeypatch.setattr(resident, "TrainingProcess", Process)
        monkeypatch.setattr(resident, "LOAD_RETRY_SECONDS", 0.0)
        job = LoadJob(
            model_name_or_path="m",
            random_weights=True,
            tokenizer=None,
            dataset=DatasetSpec.model_construct(),
            seed=1,
            cutoff_lens=(64,),
            eval_cutoff_len=64,
        )
        return ResidentTrainer(job, tmp_path / "log", expandable_segments=False, gpu_uuid=None)

    return start_


def finished(outcome: Any = "complete", **more: Any) -> Finished:
    return Finished(outcome=outcome, stage="train", step=1, steps_total=1, **more)


def job(optim: str = "adamw_8bit") -> TrialJob:
    return make_trial_job(hyperparameters=make_point(optim=optim))


def run(trainer: ResidentTrainer, optim: str = "adamw_8bit") -> Finished:
    return trainer.run(job(optim), lambda event: None, lambda event: False)


@pytest.mark.parametrize(
    "end",
    [
        finished("oom"),
        finished(leaked_bytes=LEAK_BYTES + 1),
        finished(base_intact=False),
    ],
    ids=["out of memory", "leak", "changed base"],
)
def test_process_that_is_not_trusted_is_followed_by_one_that_loads_at_once(
    start: StartTrainer, end: Finished
) -> None:
    trainer = start([READY, end], [READY])
    run(trainer)
    (successor,) = Process.alive
    assert trainer.starts == 2 and successor.sent == [trainer.job]
    assert trainer.ready() is READY
    assert trainer.starts == 2, "the one that was started is used"


def test_signs_of_progress_reach_no_listener_and_the_jobs_patience_counts(
    start: StartTrainer,
) -> None:
    trainer, seen = start([READY, Alive(), finished()]), list[AnyEvent]()
    trainer.run(make_trial_job(patience_seconds=7.0), seen.append, lambda event: False)
    assert [type(event) for event in seen] == [Finished]
    assert Process.alive[0].patience_seconds == 7.0


def test_paged_states_are_never_freed_so_their_process_is_replaced(start: StartTrainer) -> None:
    trainer = start([READY, finished()], [READY])
    run(trainer, "paged_adamw_8bit")
    assert trainer.starts == 2


def test_rungs_of_a_checkpoint_are_reported_again_and_need_no_answer(start: StartTrainer) -> None:
    rung = EVALUATED.model_copy(update={"is_rung": True})
    trainer = start([READY, Resumed(step=1, steps=(), evaluations=(rung, EVALUATED)), finished()])
    told: list[Evaluated] = []

    def prune(event: Evaluated) -> bool:
        told.append(event)
        return True

    trainer.run(job(), lambda event: None, prune)
    assert told == [rung]
    assert [type(sent) for sent in Process.alive[0].sent] == [LoadJob, TrialJob]


@pytest.mark.parametrize(
    "end", [finished("pruned"), finished("diverged"), finished(leaked_bytes=LEAK_BYTES)]
)
def test_other_trials_share_one_process(start: StartTrainer, end: Finished) -> None:
    trainer = start([READY, end, end])
    run(trainer)
    run(trainer)
    assert trainer.starts == 1


def test_nothing_is_left_when_the_run_is_over(start: StartTrainer) -> None:
    trainer = start([READY, finished("oom")], [READY])
    run(trainer)
    trainer.replace()
    assert Process.alive == []


def test_process_that_died_in_a_trial_is_not_asked_again(start: StartTrainer) -> None:
    trainer = start([READY, TrainingDiedError("killed")], [READY, finished()])
    with pytest.raises(TrainingDiedError):
        run(trainer)
    assert trainer.pid is None and Process.alive == []
    assert run(trainer).outcome == "complete"
    assert trainer.starts == 2


def test_process_that_died_while_loading_is_not_asked_again(start: StartTrainer) -> None:
    trainer = start([TrainingDiedError("killed")], [READY])
    with pytest.raises(TrainingDiedError):
        trainer.ready()
    assert trainer.ready() is READY


def test_card_that_was_full_for_a_moment_is_tried_again(start: StartTrainer) -> None:
    trainer = start([FULL], [FULL], [READY])
    assert trainer.ready() is READY
    assert len(Process.alive) == 1


def test_card_that_stays_full_is_said(start: StartTrainer) -> None:
    trainer = start(*[[FULL] for _ in range(LOAD_ATTEMPTS)])
    with pytest.raises(InputError, match="memory ran out while the base model was loaded"):
        trainer.ready()
    assert Process.alive == []


def test_card_that_is_full_in_the_middle_of_a_run_is_waited_for_longer(
    start: StartTrainer,
) -> None:
    full = [[FULL] for _ in range(LATER_LOAD_ATTEMPTS - 1)]
    trainer = start([READY, finished("oom")], *full, [READY, finished()])
    assert run(trainer).outcome == "oom"
    assert run(trainer).outcome == "complete"
    assert len(Process.alive) == 1 and trainer.starts == LATER_LOAD_ATTEMPTS + 1
