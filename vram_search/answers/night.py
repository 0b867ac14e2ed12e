"""Builds the summary of a study's latest run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from vram_search.answers.plain import PlainPart, described
from vram_search.report.night import night_sentences, summarise
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.runs import latest_run
from vram_search.store.store import LARGE


@dataclass(frozen=True, kw_only=True)
class NightAnswer(PlainPart):
    """The latest run of a study."""

    started_at: datetime
    ended_at: datetime | None = field(metadata=described("null while it runs."))
    stopped: str = field(metadata=described("The reason why it ended; empty while it runs."))
    outcomes: dict[str, int] = field(metadata=described("Trials that it started, by outcome."))
    seconds: dict[str, float] = field(
        metadata=described(
            "By phase: training, evaluation, probe, loading, saving, lost (attempts "
            "that ran out of memory or were cut off), waiting."
        )
    )
    best_before: float | None = field(
        metadata=described("Lowest eval_loss of the study at its start.")
    )
    best_after: float | None = field(metadata=described("Lowest eval_loss of the study now."))
    best_trial: int | None = field(
        metadata=described("The trial that lowered it; null if none did.")
    )
    faults: list[str] = field(metadata=described("What went wrong, the most frequent first."))
    sentences: list[str] = field(metadata=described("The summary in words."))


def last_night(
    store: Store, study: StudyRecord, of: TrialRecord | None = None
) -> NightAnswer | None:
    """Summarises the latest run; None if an older version made all runs, or runs were imported.

    Args:
        of: a trial; the answer is None if an earlier run started it.
    """
    run = latest_run(store, study.id)
    if run is None or (of is not None and of.number < run.first_trial):
        return None
    started = store.each_trial(study.id, run.first_trial, without=LARGE)
    night = summarise(run, started, study.ranked_by.name)
    return NightAnswer(
        started_at=night.started_at,
        ended_at=night.ended_at,
        stopped=night.stopped,
        outcomes=night.outcomes,
        seconds=night.seconds,
        best_before=night.best_before,
        best_after=night.best_after,
        best_trial=night.best_trial,
        faults=night.faults,
        sentences=night_sentences(night),
    )
