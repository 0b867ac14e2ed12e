"""The study that an answer is about."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vram_search.answers.base import Answer, Timestamp
from vram_search.spec.objective import Objective, objective_named
from vram_search.store import StudyRecord


class StudyAnswer(Answer):
    """An answer about one study of the database."""

    study: str = Field(description="Name of the study.")
    revision: int = Field(description="Counts from 1 how often the study file changed.")
    created_at: Timestamp = Field(description="Start of the first run.")
    updated_at: Timestamp = Field(description="Latest activity.")
    model: dict[str, Any] = Field(
        description="The base model: `name`, and `parameters` if their number is known."
    )
    card: dict[str, Any] = Field(
        description="The card of the study file: `name`, `title`, `total_bytes`, `reserve_bytes`, "
        "`context_bytes` and the rest of its YAML."
    )
    objective: str = Field(
        description="The figure by which trials are ranked, lower is better: eval_loss (nats per "
        "token) or bits_per_byte."
    )
    data_hash: str = Field(description="Hash of the training and evaluation rows.")
    is_imported: bool = Field(
        description="True if the trials were run elsewhere and imported with `vram-search import`."
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
