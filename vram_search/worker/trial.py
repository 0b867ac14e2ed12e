"""Runs one trial: plans it, probes and trains in the resident process, and records it."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from typing import Any

from vram_search.estimate import PlannedTrial, next_smaller, settle_plan, smallest
from vram_search.protocol import (
    AnyEvent,
    CheckpointRefused,
    Evaluated,
    Finished,
    Resumed,
    Stage,
    TrialJob,
)
from vram_search.search import Proposal
from vram_search.spec.constraints import UNITS
from vram_search.store import TrialEndedError, TrialRecord, TrialResult
from vram_search.store.kept_files import delete_kept
from vram_search.store.location import trial_folder
from vram_search.store.retries import INTERRUPTED
from vram_search.store.skips import SKIPPED, is_asked_to_skip
from vram_search.units import format_bytes, percent
from vram_search.worker.answers import answers_job
from vram_search.worker.checkpoints import (
    checkpoint_folder,
    cut_off_trial,
    hand_over_checkpoint,
    remove_checkpoint,
)
from vram_search.worker.constraints import train_seconds
from vram_search.worker.context import RunContext
from vram_search.worker.lease import LeaseLostError
from vram_search.worker.margin import required_ratio_above
from vram_search.worker.outage import through_outages
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.progress import ProgressWriter
from vram_search.worker.result import blame_others, load_seconds, lost, trial_result
from vram_search.worker.trial_log import SpilledError
from vram_search.worker.watch import Watch
from vram_search.worker.watchdog import patience_seconds

SKIPPED_BY_HAND = {SKIPPED: True, "message": "it was skipped by hand"}
PLAN_ATTEMPTS = 3
"""Most plans tried for one trial; after an out-of-memory the next one needs less memory."""


def begin_trial(context: RunContext, proposal: Proposal) -> int:
    """Records a proposal as a running trial of this worker and returns its row id."""
    return context.store.start_trial(
        context.record.id,
        proposal.number,
        proposal.hyperparameters.model_dump(mode="json"),
        seed=seed_of(context, proposal),
        data_hash=context.record.data_hash,
        retry_of=proposal.retry_of,
        worker_id=context.lease.worker_id,
        host=platform.node(),
    )


def run_trial(context: RunContext, proposal: Proposal, trial_id: int) -> TrialRecord:
    """Runs a proposal, records its result in the store and then reports it to Optuna.

    Args:
        trial_id: of the record that `begin_trial` made.

    Raises:
        InputError: a fault that every other trial would meet too.
        LeaseLostError, TrialEndedError: another worker has taken the trial over.
        KeyboardInterrupt: after the trial was recorded as lost.
    """
    began = time.perf_counter()
    candidates = context.candidates(proposal.hyperparameters)
    cut_off = _cut_off(context, proposal)
    planned = _plan_of(context, candidates, cut_off) or settle_plan(
        candidates, context.budget_bytes, context.margin
    )
    tries_all = not (context.study.plan.skip_infeasible or context.prepared.left_out)
    if planned is None and tries_all:
        planned = candidates[0]
    if cut_off is not None:
        hand_over_checkpoint(context.checkpoints, cut_off.number, proposal.number)
    error: dict[str, Any] | None = None
    if planned is None:
        planned = smallest(candidates).settled()
        error = _too_large(context, planned)
    elif context.study.plan.skip_infeasible and (
        broken := context.broken(proposal.hyperparameters, planned)
    ):
        error = _breaks(context, broken)
    seconds = {"plan": time.perf_counter() - began}
    if error is not None:
        _record_plan(context, trial_id, proposal, planned)
        result = TrialResult("infeasible", seconds=seconds, error=error)
        excess = planned.excess(context.budget_bytes, context.margin)
        return _finish(context, trial_id, proposal, result, excess)
    if context.idle_since is not None:
        seconds["between"] = began - context.idle_since
    result, planned = _train_until_it_fits(
        context, trial_id, proposal, candidates, planned, seconds
    )
    return _finish(
        context, trial_id, proposal, result, planned.excess(context.budget_bytes, context.margin)
    )


def _train_until_it_fits(
    context: RunContext,
    trial_id: int,
    proposal: Proposal,
    candidates: list[PlannedTrial],
    planned: PlannedTrial,
    seconds: dict[str, float],
) -> tuple[TrialResult, PlannedTrial]:
    """Trains under the plan and, after an out-of-memory, under the next smaller one.

    Returns the last plan's result; its `measured` also keeps what the refuted plans teach the
    margin.
    """
    refuted: dict[str, float] = {}
    for attempt in range(PLAN_ATTEMPTS):
        began, budget_bytes = time.perf_counter(), context.budget_bytes
        _record_plan(context, trial_id, proposal, planned)
        result = _train(context, trial_id, proposal, planned, seconds)
        if result.outcome != "oom":
            break
        failed = planned.estimate.required_bytes
        error = result.error or {}
        if "others_took_bytes" not in error and (
            ratio := required_ratio_above(result, failed, budget_bytes)
        ):
            refuted["required_ratio_above"] = ratio
        smaller = next_smaller(candidates, failed, context.budget_bytes, context.margin)
        if smaller is None or attempt + 1 == PLAN_ATTEMPTS:
            break
        planned = smaller
        remove_checkpoint(context.checkpoints, proposal.number)  # it belongs to the other plan
        seconds["oom"] = seconds.get("oom", 0.0) + time.perf_counter() - began
        context.listener.note(
            f"trial {proposal.number}: out of memory in {error.get('stage')}: "
            f"{error.get('message')}; again with {planned.plan.label}"
        )
    if refuted and result.measured:
        result = replace(result, measured={**result.measured, **refuted})
    return result, planned


def _train(
    context: RunContext,
    trial_id: int,
    proposal: Proposal,
    planned: PlannedTrial,
    seconds: dict[str, float],
) -> TrialResult:
    """Probes and trains under one plan. After a Ctrl-C or a dead process the trial is lost."""
    watch = _TrialWatch(
        budget=context.budget,
        trainer=context.trainer,
        context=context,
        trial_id=trial_id,
        number=proposal.number,
        progress=ProgressWriter(context.store, trial_id),
    )
    job = _job(context, proposal, planned)
    context.adapters.mkdir(parents=True, exist_ok=True)
    delete_kept(context.store.files, job.adapter_folder)

    def is_skipped() -> bool:
        return is_asked_to_skip(context.store.engine, context.record.name, proposal.number)

    def prune(event: Evaluated) -> bool:
        number, value = proposal.number, context.study.ranked_by.value_of(event)
        return through_outages(
            context.store,
            lambda: context.search.should_prune(number, event.fraction, value) or is_skipped(),
        )

    began, ready = time.perf_counter(), None
    try:
        context.listener.trial_started(proposal, planned)
        ready = context.trainer.ready()
        patience = patience_seconds(planned.step_seconds, has_gpu=ready.has_gpu)
        job = job.model_copy(update={"patience_seconds": patience})
        seconds = {**seconds, **load_seconds(ready, time.perf_counter() - began)}
        watch.start()
        began = time.perf_counter()
        finished = context.trainer.run(job, watch.on_event, prune)
    except SpilledError as spilled:
        context.trainer.restart()
        finished = spilled.finished
    except TrainingDiedError as error:
        context.trainer.restart()
        if ready is None or not error.is_out_of_memory:
            seconds = {**seconds, "lost": time.perf_counter() - began}
            return lost(watch.log, str(error), ready, seconds, error.cause)
        finished = watch.log.out_of_memory(str(error))
    except (LeaseLostError, TrialEndedError):
        context.trainer.replace()
        delete_kept(context.store.files, job.adapter_folder)
        raise
    except BaseException as error:
        # After Ctrl-C, a full disk or a locked database, record the trial before raising.
        context.trainer.replace()
        why = INTERRUPTED if isinstance(error, KeyboardInterrupt) else str(error)
        delete_kept(context.store.files, job.adapter_folder)
        seconds = {**seconds, "lost": time.perf_counter() - began}
        _finish(context, trial_id, proposal, lost(watch.log, why, ready, seconds), 0.0)
        raise
    finally:
        report = watch.stop()
        context.idle_since = watch.finished_at or time.perf_counter()
    assert ready is not None, "else the trial is lost"
    if not finished.base_intact:
        remove_checkpoint(context.checkpoints, proposal.number)  # it was trained on another base
    result = trial_result(
        ready,
        finished,
        watch.log,
        report,
        seconds,
        job.adapter_folder,
        context.study.ranked_by,
    )
    if watch.taken_by_others and result.outcome == "oom":
        result = blame_others(result, watch.taken_by_others)
    if result.outcome == "pruned" and through_outages(context.store, is_skipped):
        result = replace(result, error={**(result.error or {}), **SKIPPED_BY_HAND})
    if context.budget.emulated and result.measured:
        result.measured["emulated"] = context.budget.emulated
    if miss := (result.measured or {}).get("probe_miss"):
        context.listener.note(
            f"trial {proposal.number}: the run's peak is {miss:.3f} times the probe's"
        )
    return result


@dataclass(kw_only=True)
class _TrialWatch(Watch):
    """Also records the events of a trial and passes them on."""

    context: RunContext
    trial_id: int
    number: int
    progress: ProgressWriter
    taken_by_others: int = 0
    """Bytes of the budget that other programs took until memory ran out."""
    finished_at: float | None = None

    def on_event(self, event: AnyEvent) -> None:
        """Notes an event and passes it on.

        Raises:
            SpilledError: `TrialLog.refuse_spill`.
            LeaseLostError, TrialEndedError: another worker has taken the trial over.
        """
        self.context.lease.check()
        sample = self.note(event)
        if isinstance(event, Stage):
            self.context.store.record_stage(self.trial_id, event.stage)
        elif isinstance(event, Resumed):
            self.context.store.record_resumed(self.trial_id, event.step)
            self._tell(f"goes on after step {event.step} of the trial that it repeats")
        elif isinstance(event, CheckpointRefused):
            self._tell(f"its checkpoint is not used ({event.reason}); it starts at step 1")
        self.progress.on_event(event, sample)
        self.context.listener.trial_event(event, sample)
        self.refuse_spill(event, sample)
        if isinstance(event, Finished):
            self.finished_at = time.perf_counter()
            if event.outcome == "oom":
                self.taken_by_others = max(0, -self.budget.follow(sample))

    def _tell(self, text: str) -> None:
        self.context.listener.note(f"trial {self.number}: {text}")


def seed_of(context: RunContext, proposal: Proposal) -> int:
    """Returns the seed of a trial: the point's own, or the study's."""
    own = proposal.hyperparameters.seed
    return context.study.seed if own is None else own


def _job(context: RunContext, proposal: Proposal, planned: PlannedTrial) -> TrialJob:
    hp = proposal.hyperparameters
    return TrialJob(
        number=proposal.number,
        hyperparameters=hp,
        target_modules=tuple(context.prepared.shape.target_modules(hp.lora_target)),
        plan=planned.plan,
        training=context.study.training_of(hp),
        eval_cutoff_len=context.study.eval_cutoff_len,
        seed=seed_of(context, proposal),
        adapter_folder=str(context.adapters / trial_folder(proposal.number)),
        checkpoint_folder=str(checkpoint_folder(context.checkpoints, proposal.number)),
        answers=answers_job(context.study, planned),
    )


def _cut_off(context: RunContext, proposal: Proposal) -> TrialRecord | None:
    """Returns the lost trial with whose checkpoint a proposal goes on; None if there is none."""
    if proposal.retry_of is None:
        return None
    earlier = context.store.trials(context.record.id)
    return cut_off_trial(context.checkpoints, earlier, proposal.retry_of)


def _plan_of(
    context: RunContext, candidates: list[PlannedTrial], cut_off: TrialRecord | None
) -> PlannedTrial | None:
    """Returns the plan of a trial that was cut off, if it still fits: its checkpoint needs it."""
    if cut_off is None:
        return None
    for planned in candidates:
        if planned.plan.model_dump(mode="json") == cut_off.plan:
            settled = planned.settled()
            return settled if settled.fits(context.budget_bytes, context.margin) else None
    return None


def _finish(
    context: RunContext, trial_id: int, proposal: Proposal, result: TrialResult, excess: float
) -> TrialRecord:
    """Records the result first; if reporting it to Optuna fails, the next start reports it."""
    with context.turn():
        context.store.finish_trial(trial_id, result)
        record = context.store.trial(context.record.id, proposal.number)
        assert record is not None
        context.search.tell(proposal.number, result.outcome, result.value, excess, record)
    if record.adapter_path is None:
        delete_kept(context.store.files, context.adapters / trial_folder(proposal.number))
    if record.outcome != "lost":
        remove_checkpoint(context.checkpoints, proposal.number)
    context.listener.trial_ended(record)
    return record


def _record_plan(
    context: RunContext, trial_id: int, proposal: Proposal, planned: PlannedTrial
) -> None:
    predicted = {
        **planned.estimate.as_dict(),
        "budget_bytes": context.budget_bytes,
        "margin": context.margin,
        "excess": planned.excess(context.budget_bytes, context.margin),
        "step_seconds": planned.step_seconds,
        "train_seconds": train_seconds(
            context.study, context.sequence_tokens, proposal.hyperparameters, planned
        ),
        "trainable_parameters": planned.estimate.trainable_parameters,
        "longest_tokens": planned.estimate.workload.cutoff_len,
        "longest_eval_tokens": planned.estimate.workload.eval_cutoff_len,
    }
    context.store.record_plan(trial_id, planned.plan.model_dump(mode="json"), predicted)


def _breaks(context: RunContext, broken: dict[str, float]) -> dict[str, Any]:
    limits = context.study.constraints.limits()
    said = ", ".join(
        f"constraints.{name} {limits[name] / UNITS[name]:g} is missed by {percent(share)}"
        for name, share in broken.items()
    )
    return {
        "stage": "plan",
        "message": f"predicted to break the study's constraints: {said}",
        "remedy": "raise the limit, or leave such values out of search_space",
    }


def _too_large(context: RunContext, least: PlannedTrial) -> dict[str, Any]:
    return {
        "stage": "plan",
        "message": f"even the smallest plan ({least.plan.label}) does not fit: predicted "
        f"{format_bytes(least.estimate.required_bytes)} + margin {percent(context.margin, 1)} > "
        f"VRAM limit {format_bytes(context.budget_bytes)}",
        "remedy": "a shorter cutoff_len or enable_liger_kernel lowers it",
    }
