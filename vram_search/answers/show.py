"""Answers `show`: everything that is recorded about one trial."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.answers.night import NightAnswer, last_night
from vram_search.answers.plain import Number, PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.answers.trial import TrialAnswer, trial_answer
from vram_search.report.words import repeat_words
from vram_search.store import Store, StudyRecord, TrialRecord


@dataclass(frozen=True, kw_only=True)
class StepLossAnswer(PlainPart):
    """Training loss logged at one optimizer step; null if it was not finite."""

    step: int
    loss: float | None = field(metadata=described("Nats per token."))
    learning_rate: float | None
    grad_norm: float | None


@dataclass(frozen=True, kw_only=True)
class EvaluationAnswer(PlainPart):
    """One evaluation of the study's evaluation rows."""

    step: int
    fraction: float = field(metadata=described("Share of the whole run, 0 to 1."))
    eval_loss: float | None = field(metadata=described("Nats per token, at the study's cutoff."))
    own_cutoff_eval_loss: float | None = field(metadata=described("At the trial's own cutoff_len."))
    bits_per_byte: float | None
    example_loss_sums: list[float | None] | None = field(
        metadata=described("Summed nats of each evaluation row, in the order of the rows.")
    )
    seconds: Number
    answer_error: float | None = field(
        metadata=described("1 - the mean score of generated answers, if they are the objective.")
    )
    answer_errors: list[float | None] | None = field(
        metadata=described("1 - the score of each generated answer, in the order of the rows.")
    )


@dataclass(frozen=True, kw_only=True)
class ShowAnswer(StudyAnswer):
    """A trial with its losses."""

    trial: TrialAnswer
    step_losses: list[StepLossAnswer]
    evaluations: list[EvaluationAnswer]
    night: NightAnswer | None = field(
        metadata=described("The study's latest run, if it started this trial; null otherwise.")
    )
    repeats: str = field(
        metadata=described("The trial that this one repeats, and why, as a sentence.")
    )


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
