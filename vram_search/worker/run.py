"""Runs a search: proposals become trials until the budget of trials or time is used up."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

from vram_search.errors import InputError, NothingStoredError, StoreError
from vram_search.estimate import PlannedTrial, plans, settle_plan, smallest
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import open_reader
from vram_search.outbound.delivery import delivering
from vram_search.search import STRATEGIES, Problem, Search, open_storage
from vram_search.search.loop import run_trials
from vram_search.search.study_constraints import best_trials
from vram_search.spec import Hyperparameters, StudySpec
from vram_search.spec.initial_points import for_each_model, initial_points
from vram_search.store import Store, StudyRecord, TrialRecord, open_store
from vram_search.store.database import wait_through_outages
from vram_search.store.faults import UnreachableError, search_errors
from vram_search.store.kept_files import refuse_links
from vram_search.store.location import database_url, study_folder
from vram_search.store.queue import StudyQueue
from vram_search.store.turn import study_turn
from vram_search.units import counted, format_duration
from vram_search.worker.base_models import BaseModels, model_places, reference_size
from vram_search.worker.companions import Companions, RunThatStartedThis, companions
from vram_search.worker.constraints import broken
from vram_search.worker.context import RunContext, decided_pins, make_context
from vram_search.worker.lease import Lease, leased, living_workers
from vram_search.worker.listener import RunListener
from vram_search.worker.load_base import make_ready
from vram_search.worker.margin import learnt_margin
from vram_search.worker.open_study import open_study
from vram_search.worker.parallel import parallel_trials
from vram_search.worker.peers import StudyPeers
from vram_search.worker.prepare import Prepared
from vram_search.worker.queue_place import QueuePlace, study_locked, take_place
from vram_search.worker.reconcile import contradiction_of, reconcile
from vram_search.worker.recorded_run import CurrentRun, recorded_run
from vram_search.worker.run_log import LoggedListener, logged_run
from vram_search.worker.runner import TrialRunner
from vram_search.worker.step_time import learnt_step_time
from vram_search.worker.stop_rule import COMPLETE, ENDLESS, FINISHED, StopRule
from vram_search.worker.transfer import source_tasks

SEEDS_OF_A_WORKER = 1_000_003
"""Distance between the sampler's seeds of two workers, so that they draw other points."""


def run_study(
    prepared: Prepared,
    stop: StopRule,
    listener: RunListener,
    *,
    accept_changes: bool = False,
    entry_id: int | None = None,
    beside: bool = False,
) -> str:
    """Runs or continues a study until its stop rule applies and returns the reason.

    It waits in the queue first if another study holds the card.

    Args:
        entry_id: the queue entry that the service has for this run; None adds one.
        beside: True to start at once, beside whatever runs.

    Raises:
        InputError: the study, the database or the card cannot be used as they are.
        VramSearchError: several trials in a row were lost.
        KeyboardInterrupt: the current trial is recorded as lost.
    """
    study = prepared.study
    url = database_url(study.database)
    folder = study_folder(url, study.study)
    with (
        contextlib.closing(open_store(url, create=True)) as store,
        study_locked(folder),
        logged_run(folder, listener) as logged,
        delivering(store, logged.note),
    ):
        record = open_study(store, prepared, accept_changes=accept_changes)
        with leased(store, record) as lease, recorded_run(store, record.id, lease.worker_id) as run:
            return _run_leased(
                prepared,
                stop,
                logged,
                run,
                lease,
                accept_changes=accept_changes,
                entry_id=entry_id,
                beside=beside,
            )


def join_study(
    prepared: Prepared,
    record: StudyRecord,
    stop: StopRule,
    listener: RunListener,
    *,
    beside: bool = False,
    entry_id: int | None = None,
    share: int = 1,
) -> str:
    """Runs trials of a recorded study beside its other workers and returns the reason for the end.

    Args:
        prepared: the study as it is recorded (`recorded_spec`).
        beside: True to start at once, beside whatever holds the card.
        entry_id: queue entry of the run that started this process on its own card; None: a person
            started it.
        share: number of trainings on the card.

    Raises:
        InputError: rows, model or card of this machine cannot be used.
        VramSearchError: several trials in a row were lost.
        KeyboardInterrupt: the current trial is recorded as lost.
    """
    if prepared.rows.data_hash != record.data_hash:
        raise InputError(
            f"{prepared.study.dataset.label} has other rows here than study {record.name}",
            f"copy the data set to this machine; the record holds the hash {record.data_hash}",
        )
    url = database_url(prepared.study.database)
    folder = study_folder(url, record.name)
    refuse_links(folder)
    with (
        contextlib.closing(open_store(url, create=False)) as store,
        logged_run(folder, listener) as logged,
        leased(store, record, joins=True, share=share) as lease,
        delivering(store, logged.note) if entry_id is None else contextlib.nullcontext(),
    ):
        if entry_id is None:
            return _run_leased(prepared, stop, logged, CurrentRun(), lease, beside=beside)
        return _run_as_companion(prepared, stop, logged, lease, entry_id)


def _run_as_companion(
    prepared: Prepared, stop: StopRule, listener: LoggedListener, lease: Lease, entry_id: int
) -> str:
    """Runs trials on the card that the run of a queue entry holds."""
    wait_through_outages(lease.store.engine)
    run = RunThatStartedThis(sys.stdin)
    place = QueuePlace(StudyQueue(lease.store.engine), entry_id, "", "", lease.worker_id)
    why = _run_through_outages(
        prepared, stop, listener, lambda: run.why_over() or place.why_over(), CurrentRun(), lease
    )
    listener.run_ended(why)
    return why


def _run_leased(
    prepared: Prepared,
    stop: StopRule,
    listener: LoggedListener,
    run: CurrentRun,
    lease: Lease,
    *,
    accept_changes: bool = False,
    entry_id: int | None = None,
    beside: bool = False,
) -> str:
    """Waits for the card and runs the study, also through outages of a database server."""
    url, store = database_url(prepared.study.database), lease.store
    wait_through_outages(store.engine)
    began = time.monotonic()
    with take_place(
        store,
        url,
        prepared.study,
        listener.note,
        entry_id=entry_id,
        beside=beside,
        worker_id=lease.worker_id,
    ) as place:
        waited = run.seconds["waiting"] = time.monotonic() - began
        stop = stop.after_waiting(waited)
        lease.neighbour_bytes = place.neighbour_bytes
        lease.share = parallel_trials(prepared, store.trials(lease.study.id), listener.note)
        log = study_folder(url, prepared.study.study).path / "companions.log"
        with companions(url, prepared.study.study, place.entry_id, lease.share, log) as others:
            why = run.stopped = _run_through_outages(
                prepared,
                stop,
                listener,
                place.why_over,
                run,
                lease,
                others,
                accept_changes=accept_changes,
            )
        place.end(why)
        listener.run_ended(why)
        return why


def _run_through_outages(
    prepared: Prepared,
    stop: StopRule,
    listener: RunListener,
    asked_to_end: Callable[[], str],
    run: CurrentRun,
    lease: Lease,
    others: Companions | None = None,
    *,
    accept_changes: bool = False,
) -> str:
    """Runs the study, again after each outage of the database server.

    Args:
        asked_to_end: returns the reason why a person ends the search; empty if it goes on.
        others: started once the base model is loaded.
    """
    while True:
        try:
            with search_errors(lease.store.engine.url):
                return _run_in_place(
                    prepared,
                    stop,
                    listener,
                    asked_to_end,
                    run,
                    lease,
                    others,
                    accept_changes=accept_changes,
                )
        except UnreachableError as error:
            listener.note(f"{error.message}; the search goes on when it is back")
            with study_turn(lease.store.engine, lease.study.id, lease.study.name):
                lease.take_again()


def _run_in_place(
    prepared: Prepared,
    stop: StopRule,
    listener: RunListener,
    asked_to_end: Callable[[], str],
    run: CurrentRun,
    lease: Lease,
    others: Companions | None,
    *,
    accept_changes: bool,
) -> str:
    """Runs the study while it holds the card."""
    study, store, record = prepared.study, lease.store, lease.study
    url = database_url(study.database)
    problem = Problem(
        study.space,
        study.training.rungs,
        initial_points=published_points(study, stop),
        source_tasks=source_tasks(store, prepared),
        hidden_size=round(reference_size(prepared)),
        models=model_places(prepared),
        constraints=study.constraints,
        objective=study.ranked_by,
    )
    told = _refuse_memory_alone if lease.joins else listener.note
    contradiction = partial(contradiction_of, store, record, problem)
    with open_storage(url, study.study, told, contradiction) as storage:
        strategy, seed = STRATEGIES[study.strategy], study.seed + SEEDS_OF_A_WORKER * lease.rank
        with study_turn(store.engine, record.id, record.name):
            search = Search(storage, study.study, record.revision, problem, strategy, seed)
            alive = {worker.id for worker in living_workers(store, record)}
            reconcile(store, record, search, listener.note, alive)
            for point in study.first_points:
                search.enqueue(point)
            search.enqueue_initial_points()
            tell_what_was_found(store, record, stop, listener)
            folder = study_folder(url, study.study)
            contexts: list[RunContext] = []
            for one in prepared.each:
                context = make_context(
                    one,
                    store,
                    record,
                    search,
                    folder,
                    listener,
                    lease,
                    accept_changes=accept_changes,
                    budget=contexts[0].budget if contexts else None,
                )
                contexts.append(context)
        context = contexts[0]
        models = BaseModels(contexts, problem, run) if len(contexts) > 1 else None
        problem.is_feasible = context.fits if models is None else models.fits
        if context.budget.reader is not None:
            context.budget.reader.fault()  # listens for faults from now on
        try:
            return _search(context, stop, asked_to_end, run, others, models)
        except KeyboardInterrupt:
            with contextlib.suppress(StoreError):  # then the next start does it
                _end_begun_trial(context)
            raise
        finally:
            for used in contexts:
                used.trainer.replace()
            if models is not None:
                models.tell_loading()


def _end_begun_trial(context: RunContext) -> None:
    """Records a trial as lost that was interrupted before its training, while it was planned."""
    store, study, own = context.store, context.record, context.lease.worker_id
    if any(trial.worker_id == own for trial in store.running_trials(study.id)):
        alive = {worker.id for worker in living_workers(store, study)} - {own}
        with context.turn():
            reconcile(store, study, context.search, context.listener.note, alive)


def _refuse_memory_alone(problem: str) -> None:
    """Refuses to search from the record in memory while workers share Optuna's tables.

    Raises:
        InputError: workers meet in Optuna's tables, which cannot be used.
    """
    raise InputError(problem, "`vram-search db repair` writes the tables again; end all runs first")


def published_points(study: StudySpec, stop: StopRule) -> Sequence[Hyperparameters]:
    """Returns the published points that a search begins with, as its strategy uses them."""
    if not study.enqueue_priors:
        return ()
    every = initial_points(study.space)
    points = STRATEGIES[study.strategy].initial_points(every, stop.trials)
    if study.model_names:  # each model is tried, however few the trials are
        points = points or every[:1]
    return for_each_model(points, study.model_names)


def tell_what_was_found(
    store: Store, record: StudyRecord, stop: StopRule, listener: RunListener
) -> None:
    """Tells the listener of the study's trials so far."""
    counts = store.outcome_counts(record.id)
    total, finished = sum(counts.values()), sum(counts[outcome] for outcome in FINISHED)
    listener.run_started(finished, next(iter(best_trials(store, record, limit=1)), None))
    if not total:
        return
    found = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    trials = counted(total, "trial", "trials")
    goal = ""
    if stop.trials is not None:
        goal = f"; {max(0, stop.trials - finished)} to go"
    listener.note(f"continuing study {record.name}: {trials} found ({found}){goal}")


def _search(
    context: RunContext,
    stop: StopRule,
    asked_to_end: Callable[[], str],
    run: CurrentRun,
    others: Companions | None = None,
    models: BaseModels | None = None,
) -> str:
    """Loads the base model, runs trials until the search ends and returns the reason.

    Args:
        asked_to_end: returns the reason why a person ends the search; empty if it goes on.
        run: takes the seconds before the first trial.
        others: started once the base model is loaded.
        models: base models of a study of several, which are loaded when a trial needs them.
    """
    if why := _is_over(context, stop):
        return why
    device = ""
    if models is None:
        device = make_ready(context, run).device
        context.lease.describe(device, context.budget_bytes)
    if others is not None:
        others.start(stop.options)
    runner = TrialRunner(context, device, models)
    return run_trials(
        context.search,
        runner,
        lambda: asked_to_end() or _is_over(context, stop),
        peers=StudyPeers(context, runner, stop),
        stop_early=context.study.budget.stop_early,
    )


def _is_over(context: RunContext, stop: StopRule) -> str:
    """Returns the reason why no further trial is started; empty if the search goes on."""
    if stop.trials is not None:
        counts = context.store.outcome_counts(context.record.id)
        finished = sum(counts[outcome] for outcome in FINISHED)
        if finished >= stop.trials:
            return f"{counted(finished, 'trial is', 'trials are')} finished"
    if (left := stop.seconds_left) is not None:
        expected = _expected_seconds(context)
        if left <= 0:
            return "the time is used up"
        if expected is not None and expected > left:
            return (
                f"the next trial would take about {format_duration(expected)}, "
                f"{format_duration(left)} are left"
            )
    return ""


def _expected_seconds(context: RunContext) -> float | None:
    """Returns the median duration of the study's complete trials, without resumed ones."""
    durations = [
        sum(seconds for phase, seconds in trial.seconds.items() if phase != "between")
        for trial in context.store.trials(context.record.id, (COMPLETE,))
        if trial.seconds and trial.resumed_step is None
    ]
    return statistics.median(durations) if durations else None


def preview(
    prepared: Prepared, stop: StopRule = ENDLESS
) -> list[tuple[dict[str, object], PlannedTrial, bool]]:
    """Returns the rows of `--dry-run`: published points, their plans and if they fit the card.

    The points are those tried first, if there are any; the plans are those that a run would choose
    here. The lengths of the rows in tokens are not known yet.
    """
    return [row for one in prepared.each for row in _preview_of(prepared.study, one, stop)]


def _preview_of(
    whole: StudySpec, prepared: Prepared, stop: StopRule
) -> list[tuple[dict[str, object], PlannedTrial, bool]]:
    """Returns the rows of one of the study's base models."""
    study, shape = prepared.study, prepared.shape
    limit, reader = MemoryBudget.of(study.card, shape), open_reader()
    earlier = [one for one in _earlier_trials(study) if prepared.owns(one.hyperparameters)]
    device = reader.device().name if reader is not None else "CPU"
    pins = decided_pins(prepared, earlier, has_gpu=reader is not None)
    margin = learnt_margin(shape, earlier, device)
    step_time = learnt_step_time(shape, earlier, device, study.card)
    most = int(study.constraints.limits().get("max_required_gib", limit.budget_bytes))
    rows = []
    every = for_each_model(initial_points(whole.space), whole.model_names)
    shown = dict.fromkeys([*whole.first_points, *(published_points(whole, stop) or every)])
    for point in shown:
        if not prepared.owns(point.model_dump()):
            continue
        candidates = plans(
            shape,
            point,
            study.card,
            pins,
            eval_cutoff_len=study.eval_cutoff_len,
            step_time=step_time,
        )
        chosen = settle_plan(candidates, min(limit.budget_bytes, most), margin)
        planned = chosen or smallest(candidates).settled()
        is_kept = not broken(study, prepared.row_tokens, point, planned)
        rows.append((point.model_dump(), planned, chosen is not None and is_kept))
    return rows


def _earlier_trials(study: StudySpec) -> list[TrialRecord]:
    """Returns the study's trials so far; an empty list if there is no database yet.

    Raises:
        StoreError: the database cannot be used; a run could not use it either.
    """
    try:
        opened = open_store(database_url(study.database), create=False)
    except NothingStoredError:
        return []
    with contextlib.closing(opened) as store:
        record = store.study(study.study)
        return store.trials(record.id) if record is not None else []
