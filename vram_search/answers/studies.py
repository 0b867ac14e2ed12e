"""Answers `studies`: the studies of a database."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.answers.night import NightAnswer, last_night
from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord
from vram_search.store.location import bytes_in, study_folder


@dataclass(frozen=True, kw_only=True)
class StudySummary(StudyAnswer):
    """One study with the number of its trials by outcome, and its best loss."""

    outcomes: dict[str, int] = field(
        metadata=described("Trials by outcome, 0 included; `running` counts those without one.")
    )
    best_trial: int | None = field(metadata=described("Number of the best trial."))
    best_eval_loss: float | None = field(metadata=described("Nats per token."))
    best_value: float | None = field(metadata=described("The objective of the best trial."))
    night: NightAnswer | None = field(
        metadata=described("Summary of the latest run; null if an older version made it.")
    )
    disk_bytes: int | None = field(
        metadata=described(
            "Of its folder: adapters, checkpoints, exports, log; null if unreadable."
        )
    )


def _disk_bytes(store: Store, study: StudyRecord) -> int | None:
    url = store.engine.url.render_as_string(hide_password=False)
    try:
        return bytes_in(study_folder(url, study.name).path)
    except OSError:
        return None


def studies(store: Store) -> list[StudySummary]:
    """Lists all studies, newest activity first."""
    found = []
    for study in store.studies():
        top = best_trials(store, study, limit=1)
        found.append(
            StudySummary(
                **study_fields(study),
                outcomes=store.outcome_counts(study.id),
                best_trial=top[0].number if top else None,
                best_eval_loss=top[0].eval_loss if top else None,
                best_value=top[0].value if top else None,
                night=last_night(store, study),
                disk_bytes=_disk_bytes(store, study),
            )
        )
    return found
