"""Makes the record and Optuna's storage agree again after a process that ended unexpectedly."""

from __future__ import annotations

from collections.abc import Callable, Collection

from vram_search.search import Problem, Search
from vram_search.search.agreement import contradictions
from vram_search.search.optuna_tables import OptunaTables
from vram_search.search.storage import optuna_name
from vram_search.spec import Hyperparameters
from vram_search.store import Store, StudyRecord, TrialResult
from vram_search.store.retries import may_retry


def reconcile(
    store: Store,
    record: StudyRecord,
    search: Search,
    note: Callable[[str], None],
    alive: Collection[int] = (),
) -> None:
    """Corrects the record; the caller holds the study's turn, or its lock if nobody else may run.

    Running trials of dead workers become lost. Results that were saved but not yet reported to
    Optuna are reported. Each lost trial is enqueued once, before new proposals, and at most
    MAX_RETRIES times in a row.

    Args:
        alive: ids of the workers that live; their trials stay as they are.
    """
    for running in store.running_trials(record.id):
        if running.worker_id in alive:
            continue
        stage = running.stage or "plan"
        why = f"the run ended while this trial was in stage {stage}"
        store.finish_trial(running.id, TrialResult("lost", error={"stage": stage, "message": why}))
        note(f"trial {running.number} was cut off in {stage}: recorded as lost")
    records = store.trials(record.id)
    if search.trial_count <= max((r.number for r in records), default=-1):
        search.learn(records, store.evaluations)
    by_number = {r.number: r for r in records}
    for number in search.open_numbers():
        known = by_number.get(number)
        if known is None:
            search.drop(number)
        elif known.outcome is not None:
            excess = (known.predicted or {}).get("excess", 0.0)
            search.tell(number, known.outcome, known.value, excess, known)
    enqueue_lost(store, record, search)


def contradiction_of(
    store: Store, record: StudyRecord, problem: Problem, tables: OptunaTables
) -> str:
    """Says how Optuna's tables contradict the record, which counts; empty if they do not."""
    name = optuna_name(record.name, record.revision)
    found = contradictions(store.trials(record.id), tables, name, problem)
    if not found:
        return ""
    trials = "1 trial" if len(found) == 1 else f"{len(found)} trials"
    return f"they contradict the record in {trials}, the first is trial {found[0].number}"


def enqueue_lost(store: Store, record: StudyRecord, search: Search) -> None:
    """Enqueues lost trials that are not enqueued yet."""
    trials = store.trials(record.id)
    retried = search.enqueued_retries() | {
        trial.retry_of for trial in trials if trial.retry_of is not None
    }
    for trial in trials:
        if trial.outcome != "lost" or trial.number in retried:
            continue
        hyperparameters = Hyperparameters.model_validate(trial.hyperparameters)
        if may_retry(trial, trials) and search.problem.space.contains(hyperparameters):
            search.enqueue_retry(hyperparameters, trial.number)
