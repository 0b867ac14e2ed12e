"""Answers `samples`: what the untuned and the tuned model write to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from vram_search.answers.base import AnswerPart
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.store import StudyRecord, TrialRecord
from vram_search.store.untuned import Sample


class SampleAnswer(AnswerPart):
    """One prompt with its answers, written greedily."""

    prompt: str
    expected: str | None = Field(description="The row's own answer; null for other prompts.")
    untuned: str = Field(description="Answer of the model without an adapter.")
    tuned: str = Field(description="Answer with the trial's adapter.")


class SamplesAnswer(StudyAnswer):
    """Answers of the untuned and of the tuned model."""

    trial: int
    samples: list[SampleAnswer]


def samples_answer(
    study: StudyRecord, trial: TrialRecord, samples: Sequence[Sample]
) -> SamplesAnswer:
    """Builds the answer from what was written."""
    return SamplesAnswer(
        **study_fields(study),
        trial=trial.number,
        samples=[SampleAnswer(**vars(sample)) for sample in samples],
    )
