"""The data of the pages, read from the record by the answers of the command line."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vram_search.answers.compare import CompareAnswer
from vram_search.answers.night import last_night
from vram_search.answers.queue import QueueEntryAnswer
from vram_search.report.dimensions import shown_dimensions
from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.page.byte_charts import memory_chart
from vram_search.report.page.curve_charts import eval_curves_chart, train_curves_chart
from vram_search.report.page.hero import hero, outcome_shares
from vram_search.report.page.history_chart import history_chart
from vram_search.report.page.live_charts import card_chart, live_curve_chart
from vram_search.report.page.loss_charts import vram_chart
from vram_search.report.page.report_data import ReportData, load_report_data
from vram_search.report.page.search_charts import importance_chart
from vram_search.report.page.summary import summary_rows, trial_words
from vram_search.report.page.svg import Chart
from vram_search.report.page.trials_table import columns, trial_row
from vram_search.report.winner import loss_words
from vram_search.report.words import hyperparameter_words, plan_words
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.progress import Progress, progress_of
from vram_search.store.store import LARGE
from vram_search.store.untuned import untuned_loss
from vram_search.units import counted, format_bytes, format_duration, short_exponent
from vram_search.web.trial_selection import select_trials

ROWS = 100
"""Trials of one page of the table."""
FARTHEST_SECONDS = 100 * 86400
"""An end that is farther away is not forecast; the calendar may not even have it."""
LATEST = 50
"""Trials whose median duration says when a study ends."""


@dataclass(frozen=True)
class Running:
    """A study that runs, with its running trial."""

    entry: QueueEntryAnswer
    facts: list[tuple[str, str]]
    trial: TrialRecord | None
    settings: str
    plan: str
    stage: str
    progress: Progress | None
    charts: list[Chart]
    others: list[str]
    """The running trials of the study's other workers, in words."""


def one_of_each(entries: Iterable[QueueEntryAnswer]) -> list[QueueEntryAnswer]:
    """The entry that stands for each running study: each of its workers has one, too."""
    chosen: dict[str, QueueEntryAnswer] = {}
    for entry in entries:
        if entry.state == "running" and (entry.study not in chosen or entry.is_detached):
            chosen[entry.study] = entry
    return list(chosen.values())


def running(store: Store, entry: QueueEntryAnswer) -> Running:
    """Reads what a running study does now."""
    record = store.study(entry.study)
    trials = store.running_trials(record.id) if record is not None else []
    trial = trials[-1] if trials else None
    progress = None if trial is None else progress_of(store.engine, trial.id)
    stage = (progress and progress.stage) or (trial and trial.stage) or "loading the base model"
    return Running(
        entry=entry,
        facts=_facts(store, record, entry) if record is not None else [],
        trial=trial,
        settings=hyperparameter_words(trial.hyperparameters) if trial else "",
        plan=plan_words(trial.plan) if trial and trial.plan else "",
        stage=stage,
        progress=progress,
        charts=_charts(store, record, trial, progress) if record and trial else [],
        others=[_running_words(store, other) for other in trials[:-1]],
    )


def _running_words(store: Store, trial: TrialRecord) -> str:
    """A running trial in a line: "trial 7 on host-b: train, step 30 of 90"."""
    progress = progress_of(store.engine, trial.id)
    stage = (progress and progress.stage) or trial.stage or "begins"
    where = f" on {trial.host}" if trial.host else ""
    words = f"trial {trial.number}{where}: {stage}"
    if progress is not None and progress.steps_total:
        words += f", step {progress.step} of {progress.steps_total}"
    return words


def _facts(store: Store, record: StudyRecord, entry: QueueEntryAnswer) -> list[tuple[str, str]]:
    counts = store.outcome_counts(record.id)
    finished = _finished(counts)
    facts = [("trials finished", str(finished))]
    top = best_trials(store, record, limit=1)
    if top:
        size, origin = required_bytes(top[0])
        words = _loss_words(store, record, top[0])
        facts.append((f"best {top[0].value_name}, trial {top[0].number}", words))
        if size is not None:
            facts.append(("its VRAM needed", f"{format_bytes(size)} {origin}"))
    if entry.started_at is not None:
        seconds = (datetime.now(UTC) - entry.started_at).total_seconds()
        facts.append(("running for", format_duration(seconds)))
    facts.append(("ends", _end_words(store, record, entry, counts)))
    return facts


def _end_words(
    store: Store, record: StudyRecord, entry: QueueEntryAnswer, counts: Mapping[str, int]
) -> str:
    """When the study ends, as far as its limits say it.

    Args:
        counts: trials of the study by outcome.
    """
    if entry.until is not None:
        return f"{moment_words(entry.until)} at the latest"
    if entry.hours is not None:
        return f"after {entry.hours:g} h"
    budget = record.spec.get("budget") or {}
    trials, finished = entry.trials or budget.get("trials"), _finished(counts)
    if trials and finished and entry.started_at is not None:
        first = max(0, sum(counts.values()) - LATEST)
        left = max(0, trials - finished) * _seconds_a_trial(store, record, first)
        if left < FARTHEST_SECONDS:
            end = datetime.now(UTC) + timedelta(seconds=left)
            return f"after {counted(trials, 'trial', 'trials')}, about {moment_words(end)}"
    if trials:
        return f"after {counted(trials, 'trial', 'trials')}"
    hours = budget.get("hours")
    return f"after {hours:g} h" if hours else "when it is stopped"


def moment_words(moment: datetime) -> str:
    """A moment by the clock of the service: "Tue 07:00", with its date if that is a week away."""
    own = moment.astimezone()
    is_near = abs(moment - datetime.now(UTC)) < timedelta(days=6)
    return f"{own:%a %H:%M}" if is_near else f"{own:%Y-%m-%d %H:%M}"


def _loss_words(store: Store, record: StudyRecord, trial: TrialRecord) -> str:
    """The value of a complete trial, compared with the untuned model."""
    return loss_words(trial.value or 0.0, untuned_loss(store, record, trial))


def _finished(counts: Mapping[str, int]) -> int:
    return sum(n for outcome, n in counts.items() if outcome not in ("running", "lost"))


def _seconds_a_trial(store: Store, record: StudyRecord, first: int) -> float:
    """The median duration of the study's finished trials from this number on."""
    latest = store.trials(record.id, first=first, without=LARGE)
    durations = [run_seconds(trial) for trial in latest]
    return statistics.median([seconds for seconds in durations if seconds is not None] or [0.0])


def _charts(
    store: Store, record: StudyRecord, trial: TrialRecord, progress: Progress | None
) -> list[Chart]:
    card = record.card
    total = card.get("total_bytes")
    limit = int(total) - int(card.get("reserve_bytes", 0)) if total else None
    parts = (trial.predicted or {}).get("parts") or {}
    charts = [card_chart(trial.number, parts, limit, progress.process_bytes if progress else None)]
    if progress is not None:
        top = best_trials(store, record, limit=1)
        best = store.step_losses(top[0].id) if top else []
        charts.append(
            live_curve_chart(
                trial.number, progress.losses, progress.evaluations, progress.steps_total, best
            )
        )
    return charts


@dataclass(frozen=True)
class Night:
    """The latest run of a study, in sentences."""

    study: str
    sentences: list[str]
    answer: str
    """The trial to use, in one sentence; empty if no trial is complete."""


def latest_night(store: Store) -> Night | None:
    """The latest run of the study with the newest activity; None if no run is recorded."""
    record = store.latest_study()
    return None if record is None else night_of(store, record)


def night_of(store: Store, record: StudyRecord) -> Night | None:
    """The latest run of a study; None if no run is recorded."""
    night = last_night(store, record)
    if night is None:
        return None
    top = best_trials(store, record, limit=1)
    answer = ""
    if top:
        words = _loss_words(store, record, top[0])
        answer = f"Use trial {top[0].number}: {top[0].value_name} {words}."
    return Night(record.name, night.sentences, answer)


def compared_rows(answer: CompareAnswer) -> list[tuple[str, str, str]]:
    """Returns the values in which two trials differ: name, first, second."""
    differs = answer.differs
    rows = [
        (name, _cell(first), _cell(second))
        for pairs in (differs.hyperparameters, differs.plan, differs.circumstances)
        for name, (first, second) in pairs.items()
    ]
    if (loss := answer.eval_loss) is not None:
        rows.append((f"{answer.objective}, {loss.at}", f"{loss.first:.4f}", f"{loss.second:.4f}"))
    for form, figures in ((format_bytes, answer.bytes), (format_duration, answer.seconds)):
        for name, figure in figures.items():
            what = name.removesuffix("_bytes").removesuffix("_seconds")
            what = f"time, {what}" if form is format_duration else what
            rows.append((f"{what} ({figure.origin})", form(figure.first), form(figure.second)))
    return rows


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return short_exponent(f"{value:.3g}") if isinstance(value, float) else str(value)


def study_charts(data: ReportData) -> list[Chart]:
    """The report's charts that a study's page shows."""
    return [
        history_chart(data),
        vram_chart(data),
        eval_curves_chart(data),
        memory_chart(data),
        importance_chart(data),
        train_curves_chart(data),
    ]


def study_page(store: Store, record: StudyRecord) -> dict[str, Any]:
    """The data of a study's page."""
    data = load_report_data(store, record)
    spot = data.sweet_spot
    return {
        "study": record,
        "hero": hero(data),
        "outcomes_of_all": outcome_shares(data),
        "night": night_of(store, record),
        "summary": summary_rows(data),
        "sweet_spot": spot,
        "sweet_words": trial_words(spot.trial) if spot else "",
        "best_words": trial_words(spot.best) if spot else "",
        "charts": study_charts(data),
        "outcomes": sorted({trial.outcome or "running" for trial in data.trials}),
    }


def trials_page(
    store: Store, record: StudyRecord, outcome: str, order: str, page: int
) -> dict[str, Any]:
    """One page of a study's table of trials."""
    outcomes = (outcome,) if outcome else ()
    counts = store.outcome_counts(record.id)
    count = sum(counts.values()) if not outcome else counts.get(outcome, 0)
    last = max(0, (count - 1) // ROWS)
    page = min(max(page, 0), last)
    found = select_trials(
        store,
        record,
        outcomes=outcomes,
        order="eval_loss" if order == "eval_loss" else "newest",
        offset=page * ROWS,
        limit=ROWS,
    )
    by_number: dict[int | None, TrialRecord] = {t.number: t for t in found.study_trials}
    dimensions = shown_dimensions(found.study_trials)
    return {
        "study": record,
        "columns": columns(dimensions, is_imported=record.is_imported),
        "rows": [
            trial_row(t, by_number.get(t.retry_of), dimensions, is_imported=record.is_imported)
            for t in found.trials
        ],
        "count": found.count,
        "page": page,
        "last_page": last,
        "outcome": outcome,
        "order": order,
    }
