"""One trial's life: plan, probe and train in the resident process, watched; then the record."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from typing import Any

from vram_search.estimate import PlannedTrial, choose_plan, smallest
from vram_search.gpu import Monitor, MonitorReport
from vram_search.protocol import AnyEvent, Evaluated, Finished, Stage, Step, TrialJob
from vram_search.search import Proposal
from vram_search.store import TrialRecord, TrialResult
from vram_search.units import format_bytes
from vram_search.worker.course import Course, SpilledError
from vram_search.worker.margin import required_ratio_above
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.result import blame_others, load_seconds, lost, trial_result
from vram_search.worker.room import Room

PLAN_ATTEMPTS = 3
"""Plans tried for one trial: after an out-of-memory the next one that needs less."""
SMALLER = 0.97
"""A plan counts as needing less when it is predicted to need this share or less."""


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
        result = TrialResult(
            "infeasible",
            seconds={"plan": time.perf_counter() - began},
            error=_too_large(room, least),
        )
        excess = least.excess(room.budget_bytes, room.margin)
        return _finish(room, trial_id, proposal, result, excess)
    seconds = {"plan": time.perf_counter() - began}
    if room.idle_since is not None:
        seconds["between"] = began - room.idle_since
    result, planned = _train_until_it_fits(room, trial_id, proposal, candidates, planned, seconds)
    return _finish(room, trial_id, proposal, result, planned.excess(room.budget_bytes, room.margin))


def _train_until_it_fits(
    room: Room,
    trial_id: int,
    proposal: Proposal,
    candidates: list[PlannedTrial],
    planned: PlannedTrial,
    seconds: dict[str, float],
) -> tuple[TrialResult, PlannedTrial]:
    """Trains under the plan; after an out-of-memory under the next smaller one. The result of the
    last, whose `measured` keeps what the refuted plans teach the margin."""
    refuted: dict[str, float] = {}
    for attempt in range(PLAN_ATTEMPTS):
        began, budget_bytes = time.perf_counter(), room.budget_bytes
        _record_plan(room, trial_id, planned)
        result = _train(room, trial_id, proposal, planned, seconds)
        if result.outcome != "oom":
            break
        failed = planned.estimate.required_bytes
        error = result.error or {}
        if "others_took_bytes" not in error and (
            ratio := required_ratio_above(result, failed, budget_bytes)
        ):
            refuted["required_ratio_above"] = ratio
        smaller = [c for c in candidates if c.estimate.required_bytes <= failed * SMALLER]
        if not smaller or attempt + 1 == PLAN_ATTEMPTS:
            break
        planned = choose_plan(smaller, room.budget_bytes, room.margin) or smaller[0]
        seconds["oom"] = seconds.get("oom", 0.0) + time.perf_counter() - began
        room.listener.note(
            f"trial {proposal.number}: out of memory in {error.get('stage')}: "
            f"{error.get('message')}; again with {planned.plan.label}"
        )
    if refuted and result.measured:
        result = replace(result, measured={**result.measured, **refuted})
    return result, planned


def _train(
    room: Room,
    trial_id: int,
    proposal: Proposal,
    planned: PlannedTrial,
    seconds: dict[str, float],
) -> TrialResult:
    """Probe and training under one plan. A Ctrl-C or a dead process make the trial lost."""
    watch = _Watch(room, trial_id)
    job = _job(room, proposal, planned)
    room.adapters.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(job.adapter_folder, ignore_errors=True)

    def prune(event: Evaluated) -> bool:
        return room.search.should_prune(proposal.number, event.fraction, event.eval_loss, room.fits)

    began, ready = time.perf_counter(), None
    try:
        room.listener.trial_started(proposal, planned)
        ready = room.trainer.ready()
        seconds = {**seconds, **load_seconds(ready, time.perf_counter() - began)}
        watch.start()
        began = time.perf_counter()
        finished = room.trainer.run(job, watch.on_event, prune)
    except SpilledError as spilled:
        room.trainer.restart()
        finished = spilled.finished
    except TrainingDiedError as error:
        room.trainer.restart()
        if ready is None or not error.is_out_of_memory:
            seconds = {**seconds, "lost": time.perf_counter() - began}
            return lost(watch.course, str(error), ready, seconds)
        finished = watch.course.out_of_memory(str(error))
    except BaseException as error:
        # Ctrl-C, a full disk, a locked database: the record first, then out with it.
        room.trainer.replace()
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        shutil.rmtree(job.adapter_folder, ignore_errors=True)
        seconds = {**seconds, "lost": time.perf_counter() - began}
        _finish(room, trial_id, proposal, lost(watch.course, why, ready, seconds), 0.0)
        raise
    finally:
        report = watch.stop()
        room.idle_since = watch.finished_at or time.perf_counter()
    assert ready is not None, "else the trial is lost"
    result = trial_result(ready, finished, watch.course, report, seconds, job.adapter_folder)
    if watch.taken_by_others:
        result = blame_others(result, watch.taken_by_others)
    if room.budget.emulated and result.measured:
        result.measured["emulated"] = room.budget.emulated
    if miss := (result.measured or {}).get("probe_miss"):
        room.listener.note(
            f"trial {proposal.number}: the run's peak is {miss:.3f} times the probe's"
        )
    return result


@dataclass
class _Watch:
    """What is done with each event of one training, and with NVML's readings meanwhile."""

    room: Room
    trial_id: int
    course: Course = field(default_factory=Course)
    monitor: Monitor | None = None
    taken_by_others: int = 0
    """Bytes of the budget that other programs took until memory ran out."""
    finished_at: float | None = None

    def start(self) -> None:
        """Begins to read NVML, where there is one; the training process is there."""
        budget, pid = self.room.budget, self.room.trainer.pid
        if budget.reader is not None and pid is not None:
            self.monitor = Monitor(budget.reader)
            self.monitor.start(pid, budget.baseline_device_bytes)

    def stop(self) -> MonitorReport | None:
        return self.monitor.stop() if self.monitor is not None else None

    def on_event(self, event: AnyEvent) -> None:
        """Notes an event and passes it on.

        Raises:
            SpilledError: `Course.refuse_spill`.
        """
        self.course.add(event)
        sample = self.monitor.snapshot() if self.monitor is not None else None
        if isinstance(event, Stage):
            self.room.store.record_stage(self.trial_id, event.stage)
            if self.monitor is not None:
                self.monitor.mark(event.stage)
        self.room.listener.trial_event(event, sample)
        budget = self.room.budget
        if isinstance(event, Step) and sample is not None and budget.reader is not None:
            self.course.refuse_spill(budget.reader.device(), sample)
        if isinstance(event, Finished):
            self.finished_at = time.perf_counter()
            if event.outcome == "oom":
                self.taken_by_others = max(0, -budget.follow(sample))


def _job(room: Room, proposal: Proposal, planned: PlannedTrial) -> TrialJob:
    hp = proposal.hyperparameters
    return TrialJob(
        number=proposal.number,
        hyperparameters=hp,
        target_modules=tuple(room.prepared.shape.target_modules(hp.lora_target)),
        plan=planned.plan,
        training=room.study.training,
        eval_cutoff_len=room.study.eval_cutoff_len,
        seed=room.study.seed,
        adapter_folder=str(room.adapters / f"trial-{proposal.number:04d}"),
    )


def _finish(
    room: Room, trial_id: int, proposal: Proposal, result: TrialResult, excess: float
) -> TrialRecord:
    """Our record first: what is recorded and untold is told at the next start."""
    room.store.finish_trial(trial_id, result)
    record = room.store.trial(room.record.id, proposal.number)
    assert record is not None
    room.search.tell(proposal.number, result.outcome, result.eval_loss, excess, record)
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
        "step_seconds": planned.step_seconds,
        "longest_tokens": planned.estimate.workload.cutoff_len,
        "longest_eval_tokens": planned.estimate.workload.eval_cutoff_len,
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
