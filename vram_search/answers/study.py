"""The study that an answer is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vram_search.answers.plain import PlainAnswer, described
from vram_search.spec.objective import Objective, objective_named
from vram_search.store import StudyRecord


@dataclass(frozen=True, kw_only=True)
class StudyAnswer(PlainAnswer):
    """An answer about one study of the database."""

    study: str = field(metadata=described("Name of the study."))
    revision: int = field(metadata=described("Counts from 1 how often the study file changed."))
    created_at: datetime = field(metadata=described("Start of the first run."))
    updated_at: datetime = field(metadata=described("Latest activity."))
    model: dict[str, Any] = field(
        metadata=described("The base model: `name`, and `parameters` if their number is known.")
    )
    card: dict[str, Any] = field(
        metadata=described(
            "The card of the study file: `name`, `title`, `total_bytes`, `reserve_bytes`, "
            "`context_bytes` and the rest of its YAML."
        )
    )
    objective: str = field(
        metadata=described(
            "The figure by which trials are ranked, lower is better: eval_loss (nats per "
            "token) or bits_per_byte."
        )
    )
    data_hash: str = field(metadata=described("Hash of the training and evaluation rows."))
    is_imported: bool = field(
        metadata=described(
            "True if the trials were run elsewhere and imported with `vram-search import`."
        )
    )

    @property
    def ranked_by(self) -> Objective:
        """The objective with its unit and headings."""
        return objective_named(self.objective)


def study_fields(study: StudyRecord) -> dict[str, Any]:
    """The fields of StudyAnswer, for the constructors of its subclasses."""
    return {
        "study": study.name,
        "revision": study.revision,
        "created_at": study.created_at,
        "updated_at": study.updated_at,
        "model": study.model,
        "card": study.card,
        "objective": study.ranked_by.name,
        "data_hash": study.data_hash,
        "is_imported": study.is_imported,
    }
