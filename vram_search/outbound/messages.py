"""Builds the messages that people get: the end of a study, its failure, a new best trial."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vram_search.report.figures import required_bytes
from vram_search.report.night import night_sentences, summarise
from vram_search.report.words import hyperparameter_words, loss_cell
from vram_search.search.study_constraints import best_trials
from vram_search.shown_text import shown
from vram_search.store import Store, TrialRecord
from vram_search.store.events import EventRecord
from vram_search.store.runs import latest_run
from vram_search.units import format_bytes

KINDS = ("queue_changed", "trial_ended")
NEWS_HOURS = 24.0
"""An older event is no news: nobody is told about it after a long pause."""


@dataclass(frozen=True)
class Message:
    """A message to a person."""

    title: str
    body: str
    is_failure: bool = False


def occasion_of(store: Store, event: EventRecord) -> str:
    """`finished`, `failed`, `best`, or empty for an event that is no news."""
    if datetime.now(UTC) - event.at > timedelta(hours=NEWS_HOURS):
        return ""
    if event.kind == "queue_changed":
        state = str(event.data.get("state"))
        return state if state in ("finished", "failed") else ""
    return "best" if _is_best(store, event) else ""


def message_of(store: Store, event: EventRecord, occasions: Collection[str]) -> Message | None:
    """The message about an event; None if it is none of the occasions."""
    occasion = occasion_of(store, event)
    if occasion not in occasions:
        return None
    if occasion == "best":
        return _best_message(store, event)
    said = shown(str(event.data.get("message") or ""))
    lines = [said] if occasion == "failed" else []
    record = store.study(event.study)
    if record is not None:
        run = latest_run(store, record.id)
        if run is not None:
            started = store.each_trial(record.id, run.first_trial)
            night = summarise(run, started, record.ranked_by.name)
            lines += [shown(sentence) for sentence in night_sentences(night)]
        lines += [_trial_line(trial) for trial in best_trials(store, record, limit=1)]
    body = "\n".join(dict.fromkeys(line for line in lines if line)) or said
    return Message(f"vram-search: study {event.study} {occasion}", body, occasion == "failed")


def _is_best(store: Store, event: EventRecord) -> bool:
    """True if the trial of this event is the study's best now, and not the first complete one."""
    record = store.study(event.study)
    top = best_trials(store, record, limit=2) if record is not None else []
    return len(top) == 2 and top[0].number == event.trial


def _best_message(store: Store, event: EventRecord) -> Message | None:
    record = store.study(event.study)
    trial = store.trial(record.id, event.trial or 0) if record is not None else None
    if trial is None:
        return None
    title = f"vram-search: study {event.study}, best {trial.value_name} {loss_cell(trial.value)}"
    return Message(title, _trial_line(trial))


def _trial_line(trial: TrialRecord) -> str:
    size, origin = required_bytes(trial)
    needs = "" if size is None else f", needs {format_bytes(size)} {origin}"
    words = hyperparameter_words(trial.hyperparameters)
    return (
        f"best: trial {trial.number}, {trial.value_name} {loss_cell(trial.value)}{needs}: {words}"
    )
