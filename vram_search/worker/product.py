"""Trains a trial again after the search: with other seeds, more epochs or all rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vram_search.data import Rows, load_rows
from vram_search.errors import InputError, VramSearchError
from vram_search.estimate import PlannedTrial, next_smaller, plans, settle_plan, smallest
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.gpu import open_reader
from vram_search.protocol import AnyEvent, CheckpointRefused, Evaluated, Resumed, Step, TrialJob
from vram_search.spec import Hyperparameters
from vram_search.spec.objective import EVAL_LOSS, OBJECTIVES
from vram_search.spec.study import TrainingSpec
from vram_search.store import Store, StudyRecord, TrialRecord, TrialResult
from vram_search.store.kept_files import delete_kept
from vram_search.store.location import StudyFolder, study_folder, trial_folder
from vram_search.store.product_runs import (
    ProductRun,
    ProductSettings,
    end_dead_product_runs,
    finish_product_run,
    product_runs_of,
    record_product_plan,
    start_product_run,
)
from vram_search.units import format_bytes, format_duration
from vram_search.worker.as_loaded import as_loaded, longest_rows
from vram_search.worker.budget import Budget
from vram_search.worker.context import decided_pins, make_trainer
from vram_search.worker.identity import WEIGHTS, SameAsSearch
from vram_search.worker.margin import learnt_margin
from vram_search.worker.prepare import Prepared
from vram_search.worker.process import TrainingDiedError, log_tail
from vram_search.worker.queue_place import QueuePlace, study_locked, take_place
from vram_search.worker.resident import ResidentTrainer
from vram_search.worker.result import load_seconds, lost, trial_result
from vram_search.worker.step_time import approximate_row_tokens, learnt_step_time
from vram_search.worker.trial import PLAN_ATTEMPTS
from vram_search.worker.trial_log import SpilledError
from vram_search.worker.watch import Watch

LOST_ATTEMPTS = 2
"""Trainings of one seed whose process dies before the command gives up."""
PROGRESS_SECONDS = 10.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ProductOrder:
    """The product runs of one trial that a person wants."""

    trial: TrialRecord
    settings: ProductSettings
    seeds: tuple[int, ...]


def train_products(
    prepared: Prepared,
    store: Store,
    url: str,
    record: StudyRecord,
    orders: Sequence[ProductOrder],
    tell: Tell,
    *,
    beside: bool = False,
) -> list[ProductRun]:
    """Trains what is not finished of the orders, and returns their finished runs.

    A run that is recorded as finished with the same trial, settings, seed and rows is not trained
    again. The settings of all orders have the same rows.

    Args:
        tell: called with each line of progress.
        beside: True to start at once, beside whatever holds the card.

    Raises:
        InputError: the rows or the weights have changed since the search, or another process runs
            the study.
        VramSearchError: the training process keeps dying.
        KeyboardInterrupt: the running training is recorded as lost.
    """
    study, folder = prepared.study, study_folder(url, record.name)
    if prepared.rows.data_hash != record.data_hash:
        raise InputError(
            f"{study.dataset.label} has changed since the search of study {record.name}",
            "restore the rows; the record holds their hash " + record.data_hash,
        )
    all_rows = orders[0].settings.all_rows
    rows = load_rows(study.dataset, study.seed, all_rows=True) if all_rows else prepared.rows
    with study_locked(folder):
        end_dead_product_runs(store, record.id)
        missing = _missing(store, record, orders, rows)
        if missing:
            with take_place(store, url, study, tell, beside=beside) as place:
                _train_all(prepared, store, record, rows, folder, missing, tell, place)
                place.end(f"{len(missing)} product runs are trained")
    wanted = {(order.settings, seed) for order in orders for seed in order.seeds}
    return [
        run
        for run in product_runs_of(store, record.id)
        if (run.settings, run.seed) in wanted and _is_finished(run, rows)
    ]


def _is_finished(run: ProductRun, rows: Rows) -> bool:
    """True for an end that another attempt would meet again, if its adapter is still kept."""
    if run.data_hash != rows.data_hash or run.outcome in (None, "lost"):
        return False
    return run.adapter_path is None or Path(run.adapter_path).is_dir()


def _missing(
    store: Store, record: StudyRecord, orders: Sequence[ProductOrder], rows: Rows
) -> list[tuple[ProductOrder, int]]:
    runs = product_runs_of(store, record.id)
    done = {(run.settings, run.seed) for run in runs if _is_finished(run, rows)}
    return [
        (order, seed)
        for order in orders
        for seed in order.seeds
        if (order.settings, seed) not in done
    ]


def product_training(training: TrainingSpec, epochs: float | None) -> TrainingSpec:
    """Returns the length of a product run: the study's full length, or so many epochs."""
    changes: dict[str, float | None] = {"trial_share": 1.0}
    if epochs is not None:
        changes |= {"num_train_epochs": epochs, "max_steps": None}
    return training.model_copy(update=changes)


def _train_all(
    prepared: Prepared,
    store: Store,
    record: StudyRecord,
    rows: Rows,
    folder: StudyFolder,
    missing: Sequence[tuple[ProductOrder, int]],
    tell: Tell,
    place: QueuePlace,
) -> None:
    """Loads the base model once and trains one run after another."""
    study, every = prepared.study, store.trials(record.id)
    trials = [one for one in every if prepared.owns(one.hyperparameters)]
    limit, reader = MemoryBudget.of(study.card, prepared.shape), open_reader()
    budget = Budget.at_start(limit, reader, tell)
    pins = decided_pins(prepared, trials, has_gpu=reader is not None)
    has_same_rows = rows.data_hash == record.data_hash
    parts = (*WEIGHTS, "tokens") if has_same_rows else WEIGHTS
    trainer = make_trainer(
        prepared,
        pins,
        budget,
        folder.log,
        SameAsSearch(record, parts, rows.data_hash, prepared.name),
        all_rows=missing[0][0].settings.all_rows,
    )
    try:
        tell("loading the base model ...")
        try:
            ready = trainer.ready()
        except TrainingDiedError as error:
            raise VramSearchError(
                f"the base model could not be loaded: {error}\n{log_tail(trainer.log)}"
            ) from None
        if trainer.refused_liger:
            pins = pins.model_copy(update={"enable_liger_kernel": False})
        prepared = as_loaded(prepared, ready, tell)
        row_tokens = approximate_row_tokens(rows, ready.longest_tokens)
        step_time = learnt_step_time(prepared.shape, trials, ready.device, study.card, row_tokens)
        longest = longest_rows(ready)

        def plan(hyperparameters: Hyperparameters) -> list[PlannedTrial]:
            return plans(
                prepared.shape,
                hyperparameters,
                study.card,
                pins,
                eval_cutoff_len=study.eval_cutoff_len,
                step_time=step_time,
                row_tokens=row_tokens,
                longest=longest,
                hardware=budget.as_played(limit.hardware),
            )

        margin = learnt_margin(prepared.shape, trials, ready.device)
        training = _Training(prepared, store, trainer, budget, margin, plan, folder.products, tell)
        for order, seed in missing:
            if why := place.why_over():
                tell(why)
                return
            budget.refresh(trainer.pid, tell)
            training.run_seed(record, order, seed, rows.data_hash)
    finally:
        trainer.replace()


@dataclass(frozen=True)
class _Training:
    """Trains product runs in one training process."""

    prepared: Prepared
    store: Store
    trainer: ResidentTrainer
    budget: Budget
    margin: float
    plan: Callable[[Hyperparameters], list[PlannedTrial]]
    folder: Path
    tell: Tell

    def run_seed(self, record: StudyRecord, order: ProductOrder, seed: int, data_hash: str) -> None:
        """Trains one run and records it; a training whose process died is repeated once.

        Raises:
            VramSearchError: its process died again.
        """
        for _ in range(LOST_ATTEMPTS):
            run_id = start_product_run(self.store, record.id, order.settings, seed, data_hash)
            result = self._run(order, seed, run_id)
            finish_product_run(self.store, run_id, result)
            name = f"trial {order.trial.number}, seed {seed}"
            self.tell(f"{name}: {_outcome_words(result)}")
            if result.outcome != "lost":
                return
        raise VramSearchError(
            f"{name} was lost {LOST_ATTEMPTS} times; the end of the log:\n"
            f"{log_tail(self.trainer.log)}",
            f"the whole log: {self.trainer.log}; the same command continues",
        )

    def _run(self, order: ProductOrder, seed: int, run_id: int) -> TrialResult:
        """Trains under the fastest plan that fits, and after an out-of-memory under the next
        smaller one."""
        candidates = self.plan(Hyperparameters.model_validate(order.trial.hyperparameters))
        planned = settle_plan(candidates, self.budget.now_bytes, self.margin)
        if planned is None:
            planned = smallest(candidates).settled()
            needed = format_bytes(planned.estimate.required_bytes)
            message = f"even the smallest plan does not fit: {needed} needed"
            return TrialResult("infeasible", error={"stage": "plan", "message": message})
        for attempt in range(PLAN_ATTEMPTS):
            record_product_plan(
                self.store,
                run_id,
                planned.plan.model_dump(mode="json"),
                {**planned.estimate.as_dict(), "margin": self.margin},
            )
            result = self._train(order, seed, run_id, planned)
            if result.outcome != "oom" or attempt + 1 == PLAN_ATTEMPTS:
                return result
            failed = planned.estimate.required_bytes
            smaller = next_smaller(candidates, failed, self.budget.now_bytes, self.margin)
            if smaller is None:
                return result
            planned = smaller
            self.tell(f"out of memory; again with {planned.plan.label}")
        raise AssertionError("the loop returns")

    def _train(
        self, order: ProductOrder, seed: int, run_id: int, planned: PlannedTrial
    ) -> TrialResult:
        """Trains under one plan. A lost training leaves its checkpoint, with which the next one of
        the same trial and seed goes on."""
        hp = Hyperparameters.model_validate(order.trial.hyperparameters)
        self.folder.mkdir(parents=True, exist_ok=True)
        adapter = self.folder / f"run-{run_id:04d}"
        delete_kept(self.store.files, adapter)
        checkpoint = self.folder / f"checkpoint-{trial_folder(order.trial.number)}-seed-{seed}"
        study = self.prepared.study
        job = TrialJob(
            number=order.trial.number,
            hyperparameters=hp,
            target_modules=tuple(self.prepared.shape.target_modules(hp.lora_target)),
            plan=planned.plan,
            training=product_training(study.training_of(hp), order.settings.epochs),
            eval_cutoff_len=study.eval_cutoff_len,
            seed=seed,
            adapter_folder=str(adapter),
            checkpoint_folder=str(checkpoint),
        )
        watch = _ProductWatch(
            budget=self.budget,
            trainer=self.trainer,
            name=f"trial {job.number}, seed {seed}",
            tell=self.tell,
        )
        began, ready = time.perf_counter(), None
        seconds: dict[str, float] = {}
        try:
            ready = self.trainer.ready()
            seconds = load_seconds(ready, time.perf_counter() - began)
            watch.start()
            finished = self.trainer.run(job, watch.on_event, lambda event: False)
        except SpilledError as spilled:
            self.trainer.restart()
            finished = spilled.finished
        except TrainingDiedError as error:
            self.trainer.restart()
            if ready is None or not error.is_out_of_memory:
                return lost(watch.log, str(error), ready, seconds)
            finished = watch.log.out_of_memory(str(error))
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
            delete_kept(self.store.files, adapter)
            finish_product_run(self.store, run_id, lost(watch.log, why, ready, seconds))
            raise
        finally:
            report = watch.stop()
        assert ready is not None, "else the run is lost"
        delete_kept(self.store.files, checkpoint)
        return trial_result(
            ready, finished, watch.log, report, seconds, str(adapter), OBJECTIVES[EVAL_LOSS]
        )


@dataclass(kw_only=True)
class _ProductWatch(Watch):
    """Also reports the progress of a product run."""

    name: str
    tell: Tell
    told_at: float = 0.0

    def on_event(self, event: AnyEvent) -> None:
        """Notes an event and reports the progress.

        Raises:
            SpilledError: `TrialLog.refuse_spill`.
        """
        sample = self.note(event)
        if isinstance(event, Step):
            self._report(event)
        elif isinstance(event, Resumed):
            self.tell(f"{self.name}: goes on after step {event.step}")
        elif isinstance(event, CheckpointRefused):
            self.tell(
                f"{self.name}: its checkpoint is not used ({event.reason}); it starts at step 1"
            )
        self.refuse_spill(event, sample)
        if isinstance(event, Evaluated) and event.eval_loss is not None:
            where = f"step {event.step} of {self.log.steps_total}"
            self.tell(f"{self.name}: eval_loss {event.eval_loss:.4f} at {where}")

    def _report(self, step: Step) -> None:
        if time.monotonic() - self.told_at < PROGRESS_SECONDS or step.loss is None:
            return
        self.told_at = time.monotonic()
        where = f"step {step.step} of {self.log.steps_total}"
        self.tell(f"{self.name}: {where}, loss {step.loss:.4f}")


def _outcome_words(result: TrialResult) -> str:
    if result.outcome == "complete" and result.eval_loss is not None:
        took = format_duration(sum((result.seconds or {}).values()))
        return f"complete, eval_loss {result.eval_loss:.4f}, {took}"
    return f"{result.outcome}: {(result.error or {}).get('message', 'no message')}"
