"""Answers `samples`: what the untuned and the tuned model write to the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vram_search.answers.plain import PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.store import StudyRecord, TrialRecord
from vram_search.store.untuned import Sample


@dataclass(frozen=True, kw_only=True)
class SampleAnswer(PlainPart):
    """One prompt with its answers, written greedily."""

    prompt: str
    expected: str | None = field(
        metadata=described("The row's own answer; null for other prompts.")
    )
    untuned: str = field(metadata=described("Answer of the model without an adapter."))
    tuned: str = field(metadata=described("Answer with the trial's adapter."))


@dataclass(frozen=True, kw_only=True)
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
