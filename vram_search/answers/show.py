"""Answers `show`: everything that is recorded about one trial."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vram_search.answers.base import AS_RECORDED, AnswerPart, Number
from vram_search.answers.night import NightAnswer, last_night
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.answers.trial import TrialAnswer, trial_answer
from vram_search.report.words import repeat_words
from vram_search.store import Store, StudyRecord, TrialRecord


class StepLossAnswer(AnswerPart):
    """Training loss logged at one optimizer step; null if it was not finite."""

    step: int
    loss: float | None = Field(description="Nats per token.")
    learning_rate: float | None
    grad_norm: float | None


class EvaluationAnswer(AnswerPart):
    """One evaluation of the study's evaluation rows."""

    step: int
    fraction: float = Field(description="Share of the whole run, 0 to 1.")
    eval_loss: float | None = Field(description="Nats per token, at the study's cutoff.")
    own_cutoff_eval_loss: float | None = Field(description="At the trial's own cutoff_len.")
    bits_per_byte: float | None
    example_loss_sums: Annotated[list[float | None] | None, AS_RECORDED] = Field(
        description="Summed nats of each evaluation row, in the order of the rows."
    )
    seconds: Number
    answer_error: float | None = Field(
        description="1 - the mean score of generated answers, if they are the objective."
    )
    answer_errors: Annotated[list[float | None] | None, AS_RECORDED] = Field(
        description="1 - the score of each generated answer, in the order of the rows."
    )


class ShowAnswer(StudyAnswer):
    """A trial with its losses."""

    trial: TrialAnswer
    step_losses: list[StepLossAnswer]
    evaluations: list[EvaluationAnswer]
    night: NightAnswer | None = Field(
        description="The study's latest run, if it started this trial; null otherwise."
    )
    repeats: str = Field(description="The trial that this one repeats, and why, as a sentence.")


def show(store: Store, study: StudyRecord, trial: TrialRecord) -> ShowAnswer:
    """Collects everything that is recorded about a trial."""
    earlier = None if trial.retry_of is None else store.trial(study.id, trial.retry_of)
    return ShowAnswer(
        **study_fields(study),
        trial=trial_answer(trial),
        step_losses=[StepLossAnswer(**vars(step)) for step in store.step_losses(trial.id)],
        evaluations=[EvaluationAnswer(**vars(one)) for one in store.evaluations(trial.id)],
        night=last_night(store, study, of=trial),
        repeats=repeat_words(trial, earlier),
    )
