"""Answers `run`: the end of a search, and the best trial that it found."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from vram_search.answers.next_study import next_study
from vram_search.answers.night import NightAnswer, last_night
from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.answers.trial import TrialAnswer, trial_answer
from vram_search.report.figures import ranked
from vram_search.search.study_constraints import best_trials
from vram_search.spec import StudySpec
from vram_search.store import Store, StudyRecord
from vram_search.worker.stop_rule import StopRule


@dataclass(frozen=True, kw_only=True)
class RunAnswer(StudyAnswer):
    """The end of a search."""

    stopped: str = field(metadata=described("The reason why no further trial was started."))
    best: TrialAnswer | None = field(metadata=described("null if no trial is complete."))
    night: NightAnswer | None = field(metadata=described("Summary of this run."))
    next: list[str] = field(metadata=described("What to do next, in sentences."))
    report: str | None = field(
        metadata=described("Path of the HTML report; null if none was written.")
    )


def run_answer(store: Store, study: StudyRecord, *, stopped: str, report: str | None) -> RunAnswer:
    """Builds the answer after a search has ended.

    Args:
        stopped: the reason, as `worker.run.run_study` returns it.
        report: path of the HTML report, if one was written.
    """
    top = best_trials(store, study, limit=1)
    best = trial_answer(top[0]) if top else None
    night = last_night(store, study)
    return RunAnswer(
        **study_fields(study),
        stopped=stopped,
        best=best,
        night=night,
        next=next_steps(store, study),
        report=report,
    )


def next_steps(store: Store, study: StudyRecord) -> list[str]:
    """Advises what to do after a run: narrow the search or stop; if no trial is complete, the
    remedy of the latest fault."""
    trials = store.trials(study.id)
    if ranked(trials):
        return next_study(store, study).reasons[:2]
    remedies = [(trial.error or {}).get("remedy") for trial in reversed(trials)]
    return [str(remedy) for remedy in remedies if remedy][:1]


def stop_rule(
    study: StudySpec,
    trials: int | None,
    *,
    hours: float | None = None,
    until: float | None = None,
) -> StopRule:
    """Returns the rule by which a run stops; a given limit replaces the study's whole budget.

    Args:
        trials: finished trials, those of earlier runs included.
        hours: from now on, whatever the clock is set to.
        until: a time of day, in seconds since the epoch.
    """
    if trials is None and hours is None and until is None:
        trials, hours = study.budget.trials, study.budget.hours
    return StopRule(trials, until, time.monotonic() + hours * 3600 if hours else None)
