"""One trial's life: plan, probe and train in the resident process, watched; then the record."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vram_search.estimate import PlannedTrial, choose_plan, plans, smallest
from vram_search.gpu import GpuReader, Monitor, MonitorReport
from vram_search.protocol import AnyEvent, Evaluated, Finished, Probed, Stage, Step, TrialJob
from vram_search.search import Proposal, Search
from vram_search.spec import Hyperparameters, StudySpec
from vram_search.store import (
    Evaluation,
    Outcome,
    StepLoss,
    Store,
    StudyRecord,
    TrialRecord,
    TrialResult,
)
from vram_search.units import format_bytes
from vram_search.worker.listener import RunListener
from vram_search.worker.margin import required_ratio_above
from vram_search.worker.prepare import Prepared
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.resident import ResidentTrainer

PLAN_ATTEMPTS = 3
"""Plans tried for one trial: after an out-of-memory the next one that needs less."""
SMALLER = 0.97
"""A plan counts as needing less when it is predicted to need this share or less."""


@dataclass
class Room:
    """What the trials of one run share."""

    prepared: Prepared
    store: Store
    record: StudyRecord
    search: Search
    trainer: ResidentTrainer
    listener: RunListener
    reader: GpuReader | None
    baseline_device_bytes: int | None
    budget_bytes: int
    margin: float
    """By which predicted required bytes are raised (`learnt_margin`)."""
    adapters: Path

    @property
    def study(self) -> StudySpec:
        return self.prepared.study

    def candidates(self, hyperparameters: Hyperparameters) -> list[PlannedTrial]:
        """Plans of these hyperparameters, fastest first."""
        return plans(
            self.prepared.shape,
            hyperparameters,
            self.study.card,
            self.study.plan,
            eval_cutoff_len=self.study.eval_cutoff_len,
        )


@dataclass
class Course:
    """What the training process said of one trial so far."""

    steps: list[StepLoss] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    stage: str = "plan"
    step: int = 0
    steps_total: int = 0
    probed: Probed | None = None
    own_cutoff_eval_loss: float | None = None

    def add(self, event: AnyEvent) -> None:
        """Notes an event."""
        if isinstance(event, Stage):
            self.stage, self.steps_total = event.stage, event.steps_total
        elif isinstance(event, Step):
            self.step = event.step
            self.steps.append(
                StepLoss(event.step, event.loss, event.learning_rate, event.grad_norm)
            )
        elif isinstance(event, Probed):
            self.probed = event
        elif isinstance(event, Evaluated):
            self.own_cutoff_eval_loss = event.own_cutoff_eval_loss
            self.evaluations.append(
                Evaluation(
                    step=event.step,
                    fraction=event.fraction,
                    eval_loss=event.eval_loss,
                    own_cutoff_eval_loss=event.own_cutoff_eval_loss,
                    bits_per_byte=event.bits_per_byte,
                    example_loss_sums=event.example_loss_sums,
                    seconds=event.seconds,
                )
            )

    @property
    def best(self) -> Evaluation | None:
        """The evaluation whose adapter was kept."""
        finite = [e for e in self.evaluations if e.eval_loss is not None]
        return min(finite, key=lambda e: e.eval_loss or 0.0, default=None)


def run_trial(room: Room, proposal: Proposal) -> TrialRecord:
    """Runs a proposal to its record: in the store first, then told to the sampler.

    Raises:
        InputError: a fault that no other trial would escape.
        KeyboardInterrupt: after the trial was recorded as lost.
    """
    began = time.perf_counter()
    candidates = room.candidates(proposal.hyperparameters)
    planned = choose_plan(candidates, room.budget_bytes, room.margin)
    if planned is None and not room.study.plan.skip_infeasible:
        planned = candidates[0]
    trial_id = room.store.start_trial(
        room.record.id,
        proposal.number,
        proposal.hyperparameters.model_dump(mode="json"),
        seed=room.study.seed,
        data_hash=room.record.data_hash,
        retry_of=proposal.retry_of,
    )
    if planned is None:
        least = smallest(candidates)
        _record_plan(room, trial_id, least)
        seconds = {"plan": time.perf_counter() - began}
        return _finish(
            room,
            trial_id,
            proposal,
            TrialResult("infeasible", seconds=seconds, error=_too_large(room, least)),
            least.excess(room.budget_bytes, room.margin),
        )
    result, planned = _train_until_it_fits(room, trial_id, proposal, candidates, planned, began)
    return _finish(room, trial_id, proposal, result, planned.excess(room.budget_bytes, room.margin))


def _train_until_it_fits(
    room: Room,
    trial_id: int,
    proposal: Proposal,
    candidates: list[PlannedTrial],
    planned: PlannedTrial,
    began: float,
) -> tuple[TrialResult, PlannedTrial]:
    """Trains under the plan; after an out-of-memory under the next smaller one. The result of the
    last, whose `measured` keeps what the refuted plans teach the margin."""
    refuted: dict[str, float] = {}
    for attempt in range(PLAN_ATTEMPTS):
        _record_plan(room, trial_id, planned)
        result = _train(room, trial_id, proposal, planned, time.perf_counter() - began)
        if result.outcome != "oom":
            break
        failed = planned.estimate.required_bytes
        if ratio := required_ratio_above(result, failed, room.budget_bytes):
            refuted["required_ratio_above"] = ratio
        smaller = [c for c in candidates if c.estimate.required_bytes <= failed * SMALLER]
        if not smaller or attempt + 1 == PLAN_ATTEMPTS:
            break
        planned = smaller[0]
        room.listener.note(
            f"trial {proposal.number}: out of memory in {(result.error or {}).get('stage')}; "
            f"again with {planned.plan.label}"
        )
    if refuted and result.measured:
        result = replace(result, measured={**result.measured, **refuted})
    return result, planned


def _train(
    room: Room, trial_id: int, proposal: Proposal, planned: PlannedTrial, plan_seconds: float
) -> TrialResult:
    """Probe and training under one plan. A Ctrl-C or a dead process make the trial lost."""
    course = Course()
    folder = room.adapters / f"trial-{proposal.number:04d}"
    room.adapters.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    hp = proposal.hyperparameters
    job = TrialJob(
        number=proposal.number,
        hyperparameters=hp,
        target_modules=tuple(room.prepared.shape.target_modules(hp.lora_target)),
        plan=planned.plan,
        training=room.study.training,
        eval_cutoff_len=room.study.eval_cutoff_len,
        seed=room.study.seed,
        adapter_folder=str(folder),
    )
    monitor = None
    began = time.perf_counter()
    try:
        room.listener.trial_started(proposal, planned)
        ready = room.trainer.ready()
        load_seconds = time.perf_counter() - began
        if room.reader is not None and room.trainer.pid is not None:
            monitor = Monitor(room.reader)
            monitor.start(room.trainer.pid, room.baseline_device_bytes)

        def on_event(event: AnyEvent) -> None:
            course.add(event)
            if isinstance(event, Stage):
                room.store.record_stage(trial_id, event.stage)
                if monitor is not None:
                    monitor.mark(event.stage)
            room.listener.trial_event(event, monitor.snapshot() if monitor else None)

        def prune(event: Evaluated) -> bool:
            return room.search.should_prune(proposal.number, event.fraction, event.eval_loss)

        finished = room.trainer.run(job, on_event, prune)
    except TrainingDiedError as error:
        room.trainer.replace()
        return _lost(course, str(error))
    except BaseException as error:
        # Ctrl-C, a full disk, a locked database: the record first, then out with it.
        room.trainer.replace()
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        result = _lost(course, why)
        shutil.rmtree(folder, ignore_errors=True)
        _finish(room, trial_id, proposal, result, 0.0)
        raise
    finally:
        report = monitor.stop() if monitor is not None else None
    seconds = {"plan": plan_seconds, "load": load_seconds, **finished.seconds}
    best = course.best
    outcome: Outcome = "diverged" if finished.outcome == "failed" else finished.outcome
    return TrialResult(
        outcome=outcome,
        eval_loss=best.eval_loss if best else None,
        eval_loss_step=best.step if best else None,
        last_eval_loss=course.evaluations[-1].eval_loss if course.evaluations else None,
        own_cutoff_eval_loss=course.own_cutoff_eval_loss,
        bits_per_byte=best.bits_per_byte if best else None,
        measured=_measured(finished, course, report) if ready.has_gpu else None,
        seconds=seconds,
        steps_done=course.step,
        steps_total=course.steps_total,
        trainable_parameters=finished.trainable_parameters,
        versions=ready.versions,
        device=ready.device,
        error=_error(finished) if outcome != "complete" else None,
        adapter_path=str(folder) if best and outcome == "complete" else None,
        step_losses=course.steps,
        evaluations=course.evaluations,
    )


def _finish(
    room: Room, trial_id: int, proposal: Proposal, result: TrialResult, excess: float
) -> TrialRecord:
    """Our record first: what is recorded and untold is told at the next start."""
    room.store.finish_trial(trial_id, result)
    room.search.tell(proposal.number, result.outcome, result.eval_loss, excess)
    record = room.store.trial(room.record.id, proposal.number)
    assert record is not None
    if record.adapter_path is None:
        shutil.rmtree(room.adapters / f"trial-{proposal.number:04d}", ignore_errors=True)
    room.listener.trial_ended(record)
    return record


def _record_plan(room: Room, trial_id: int, planned: PlannedTrial) -> None:
    predicted = {
        **planned.estimate.as_dict(),
        "budget_bytes": room.budget_bytes,
        "margin": room.margin,
        "excess": planned.excess(room.budget_bytes, room.margin),
    }
    room.store.record_plan(trial_id, planned.plan.model_dump(mode="json"), predicted)


def _too_large(room: Room, least: PlannedTrial) -> dict[str, Any]:
    return {
        "stage": "plan",
        "message": f"even the smallest plan ({least.plan.label}) does not fit: predicted "
        f"{format_bytes(least.estimate.required_bytes)} + margin {room.margin:.1%} > budget "
        f"{format_bytes(room.budget_bytes)}",
        "remedy": "a shorter cutoff_len or enable_liger_kernel lowers it",
    }


def _lost(course: Course, why: str) -> TrialResult:
    return TrialResult(
        "lost",
        steps_done=course.step,
        steps_total=course.steps_total,
        error={"stage": course.stage, "step": course.step, "message": why},
        step_losses=course.steps,
        evaluations=course.evaluations,
    )


def _error(finished: Finished) -> dict[str, Any]:
    error = {
        "stage": finished.stage,
        "step": finished.step,
        "message": finished.message,
        "remedy": finished.remedy,
        "requested_bytes": finished.requested_bytes,
        "batch_shape": finished.batch_shape,
    }
    return {key: value for key, value in error.items() if value not in (None, "")}


def _measured(finished: Finished, course: Course, report: MonitorReport | None) -> dict[str, Any]:
    """Peaks over probe and training: torch's from inside, NVML's from outside."""
    measured: dict[str, Any] = {
        "allocated_bytes": finished.allocated_bytes,
        "reserved_bytes": finished.reserved_bytes,
        "leaked_bytes": finished.leaked_bytes,
    }
    if course.probed is not None:
        measured["probe_allocated_bytes"] = course.probed.allocated_bytes
        measured["probe_reserved_bytes"] = course.probed.reserved_bytes
    if report is not None:
        measured["process_bytes"] = report.peak_process_bytes
        measured["process_bytes_source"] = report.process_bytes_source
        measured["device_bytes"] = report.peak_device_bytes
        measured["samples_per_second"] = report.achieved_hz
    return measured
