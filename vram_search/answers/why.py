"""Answers `why`: the reason why a trial ended as it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.report.why.evidence import Evidence
from vram_search.report.why.explain import explain
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.losses import all_evaluations


@dataclass(frozen=True, kw_only=True)
class WhyAnswer(StudyAnswer):
    """Sentences, and the figures that decided."""

    trial: int = field(metadata=described("Number of the trial."))
    outcome: str = field(metadata=described("The trial's outcome, or `running`."))
    summary: str = field(metadata=described("One sentence."))
    facts: list[str] = field(metadata=described("More sentences, the decisive ones first."))
    figures: dict[str, Any] = field(
        metadata=described(
            "Figures of those sentences by name; units are bytes, seconds and nats per "
            "token. Unknown ones are left out."
        )
    )
    remedy: str = field(
        metadata=described("A change that would help; empty if no such change is known.")
    )


def why(store: Store, study: StudyRecord, trial: TrialRecord) -> WhyAnswer:
    """Explains why a trial ended as it did."""
    reason = explain(
        Evidence(
            study,
            trial,
            store.trials(study.id),
            all_evaluations(store, study.id),
            store.step_losses(trial.id),
        )
    )
    return WhyAnswer(
        **study_fields(study),
        trial=trial.number,
        outcome=trial.outcome or "running",
        summary=reason.summary,
        facts=list(reason.facts),
        figures=reason.figures,
        remedy=reason.remedy,
    )
