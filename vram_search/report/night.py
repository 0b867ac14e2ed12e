"""Summarises a run of a study: its trials, its hours by phase, what they bought, and its faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from vram_search.report.words import error_words, loss_cell
from vram_search.store import TrialRecord
from vram_search.store.retries import INTERRUPTED
from vram_search.store.runs import RunRecord
from vram_search.units import clock_words, counted, format_duration

PHASES: dict[str, tuple[str, ...]] = {
    "training": ("train",),
    "evaluation": ("eval",),
    "probe": ("probe",),
    "loading": ("load", "imports"),
    "saving": ("save",),
    "lost": ("oom", "lost"),
    "waiting": ("waiting", "plan", "between"),
}
"""Phases of a run with the phases of the record that they sum up; `lost` bought nothing."""
MOST_FAULTS = 5


@dataclass(frozen=True)
class NightSummary:
    """A run of a study.

    Attributes:
        stopped: the reason why it ended; empty while it runs.
        remedy: of the error that ended it.
        outcomes: trials that it started, by outcome; outcomes without a trial are left out.
        seconds: by phase, names as in PHASES.
        best_before, best_after: lowest objective of the study before the run and now.
        best_trial: number of the trial that lowered it; None if none did.
        objective: name of the figure by which the study ranks its trials.
        interrupted: numbers of the trials that a person ended with the run.
        faults: what went wrong, each once with its count, the most frequent first.
    """

    started_at: datetime
    ended_at: datetime | None
    stopped: str
    remedy: str
    outcomes: dict[str, int]
    seconds: dict[str, float]
    best_before: float | None
    best_after: float | None
    best_trial: int | None
    objective: str
    interrupted: list[int]
    faults: list[str]

    @property
    def total_seconds(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())


def summarise(run: RunRecord, started: Iterable[TrialRecord], objective: str) -> NightSummary:
    """Builds the summary of a study's latest run.

    Args:
        started: the trials that the run has started, those from `run.first_trial` on.
        objective: name of the figure by which the study ranks its trials.
    """
    spent, outcomes, faults = Counter(run.seconds or {}), Counter[str](), Counter[str]()
    best: TrialRecord | None = None
    interrupted: list[int] = []
    for trial in started:
        spent.update(trial.seconds or {})
        outcomes[trial.outcome or "running"] += 1
        if _was_interrupted(trial):
            interrupted.append(trial.number)
        elif trial.outcome in ("lost", "oom", "diverged") and trial.error:
            faults[f"{trial.outcome} {error_words(trial)}"] += 1
        if trial.outcome == "complete" and trial.value is not None:
            best = trial if best is None or trial.value < (best.value or 0.0) else best
    before = run.best_before
    if best is not None and before is not None and (best.value or 0.0) >= before:
        best = None
    return NightSummary(
        started_at=run.started_at,
        ended_at=run.ended_at,
        stopped=run.stopped or "",
        remedy=run.remedy or "",
        outcomes=dict(outcomes),
        seconds={
            phase: total
            for phase, names in PHASES.items()
            if (total := sum(spent[name] for name in names)) > 0
        },
        best_before=before,
        best_after=before if best is None else best.value,
        best_trial=None if best is None else best.number,
        objective=objective,
        interrupted=interrupted,
        faults=_fault_words(faults),
    )


def night_sentences(night: NightSummary) -> list[str]:
    """The summary in sentences: time and trials, hours, what they bought, faults."""
    begin = night.started_at.astimezone()
    end = "now" if night.ended_at is None else clock_words(night.ended_at, night.started_at)
    count = sum(night.outcomes.values())
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in night.outcomes.items())
    trials = counted(count, "trial", "trials") + (f" ({outcomes})" if outcomes else "")
    why = f" ({night.stopped})" if night.stopped else ""
    sentences = [f"{begin:%Y-%m-%d %H:%M} to {end}{why}: {trials}"]
    if night.seconds:
        longest = sorted(night.seconds.items(), key=lambda item: -item[1])
        phases = ", ".join(f"{phase} {format_duration(seconds)}" for phase, seconds in longest)
        sentences.append(f"{format_duration(night.total_seconds)} in all: {phases}")
    sentences.append(_bought(night))
    if night.interrupted:
        numbers = ", ".join(map(str, night.interrupted))
        one = len(night.interrupted) == 1
        sentences.append(
            f"{'trial' if one else 'trials'} {numbers} {'was' if one else 'were'} interrupted; the "
            f"next run continues {'it' if one else 'them'}"
        )
    sentences += [f"fault: {fault}" for fault in night.faults]
    return [*sentences, f"remedy: {night.remedy}"] if night.remedy else sentences


def _bought(night: NightSummary) -> str:
    if night.best_after is None:
        return "no trial of the study is complete yet"
    if night.best_trial is None:
        before = f"{night.objective} {loss_cell(night.best_before)}"
        return f"no trial was better than the best before, {before}"
    words = f"best {night.objective} {loss_cell(night.best_after)} (trial {night.best_trial})"
    if night.best_before is None:
        return f"{words}; no trial was complete before"
    return f"{words}, before {loss_cell(night.best_before)}"


def _was_interrupted(trial: TrialRecord) -> bool:
    return trial.outcome == "lost" and (trial.error or {}).get("message") == INTERRUPTED


def _fault_words(met: Counter[str]) -> list[str]:
    """Faults, each once with its count, the most frequent first."""
    found = [
        text if count == 1 else f"{count} times {text}"
        for text, count in met.most_common(MOST_FAULTS)
    ]
    left = len(met) - len(found)
    return found + ([f"and {left} others"] if left else [])
