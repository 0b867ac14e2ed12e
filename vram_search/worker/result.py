"""Builds a TrialResult from the training events and NVML samples."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

from vram_search.gpu import MonitorReport, PhasePeaks
from vram_search.protocol import Finished, Ready
from vram_search.spec.objective import EVAL_LOSS, Objective
from vram_search.store import Evaluation, Outcome, TrialResult
from vram_search.store.retries import HOST_MEMORY
from vram_search.units import format_bytes
from vram_search.worker.trial_log import TrialLog

HOST_MEMORY_REMEDY = "close other programs, add swap, or raise the memory limit of the container"
PROBE_TOLERANCE = 1.01
"""Ratio of a run's allocated peak to the probe's above which the probe is refuted."""


def trial_result(
    ready: Ready,
    finished: Finished,
    log: TrialLog,
    report: MonitorReport | None,
    seconds: dict[str, float],
    adapter_path: str,
    objective: Objective,
) -> TrialResult:
    """Builds the result of a training that came to its end.

    If the trial has changed the base, it is `lost`: its losses belong to another model, and the
    trial is restarted on a newly loaded base.

    Args:
        seconds: the supervisor's seconds by phase; the training process's own are added.
        adapter_path: folder of the best checkpoint's adapter.
        objective: the figure by which the study ranks its trials.
    """
    best = log.best
    outcome: Outcome = "diverged" if finished.outcome == "failed" else finished.outcome
    if not finished.base_intact or finished.is_host_memory:
        outcome = "lost"
    is_valid = outcome != "lost"
    return TrialResult(
        outcome=outcome,
        eval_loss=best.eval_loss if best and is_valid else None,
        eval_loss_step=best.step if best and is_valid else None,
        last_eval_loss=log.evaluations[-1].eval_loss if log.evaluations else None,
        own_cutoff_eval_loss=log.own_cutoff_eval_loss,
        bits_per_byte=best.bits_per_byte if best and is_valid else None,
        measured=measured(finished, log, report) if ready.has_gpu else None,
        seconds={**seconds, **finished.seconds},
        steps_done=log.step,
        steps_total=log.steps_total,
        trainable_parameters=finished.trainable_parameters,
        versions=ready.versions,
        device=ready.device,
        error=error_of(finished) if outcome != "complete" else None,
        adapter_path=adapter_path if best and outcome == "complete" else None,
        **_ranked_by(objective, best if is_valid else None),
        step_losses=log.steps,
        evaluations=log.evaluations,
    )


def _ranked_by(objective: Objective, best: Evaluation | None) -> dict[str, Any]:
    """Returns the columns of the objective; eval_loss has a column of its own."""
    if objective.name == EVAL_LOSS:
        return {}
    value = objective.value_of(best) if best is not None else None
    return {"objective": objective.name, "objective_value": value}


def lost(
    log: TrialLog,
    why: str,
    ready: Ready | None,
    seconds: dict[str, float],
    cause: str = "",
) -> TrialResult:
    """Builds the result of a training that was cut off.

    Args:
        ready: None if its process never became ready.
        seconds: the supervisor's seconds by phase.
    """
    return TrialResult(
        "lost",
        seconds=seconds,
        versions=ready.versions if ready else None,
        device=ready.device if ready else None,
        steps_done=log.step,
        steps_total=log.steps_total,
        error={
            "stage": log.stage,
            "step": log.step,
            "message": why,
            **({"cause": cause} if cause else {}),
            **({"remedy": HOST_MEMORY_REMEDY} if cause == HOST_MEMORY else {}),
        },
        step_losses=log.steps,
        evaluations=log.evaluations,
    )


def load_seconds(ready: Ready, waited: float) -> dict[str, float]:
    """Splits the wait for a training process by phase; it holds no card memory while it imports.

    Args:
        waited: seconds until the process was ready.
    """
    loading = min(waited, ready.seconds - ready.import_seconds)
    return {"load": loading, "imports": waited - loading} if waited > loading else {"load": waited}


def error_of(finished: Finished) -> dict[str, Any]:
    """Returns the error's record: its message, its place and the bytes involved."""
    message = finished.message
    if not finished.base_intact:
        message = "the base model's weights have changed: nothing that was measured on it counts"
    remedy = finished.remedy
    if finished.is_host_memory:
        message, remedy = f"main memory ran out, not the card's: {message}", HOST_MEMORY_REMEDY
    error = {
        "cause": HOST_MEMORY if finished.is_host_memory else "",
        "stage": finished.stage,
        "step": finished.step,
        "message": message,
        "remedy": remedy,
        "requested_bytes": finished.requested_bytes,
        "batch_shape": finished.batch_shape,
        "parts": finished.parts,
    }
    return {key: value for key, value in error.items() if value not in (None, "", {})}


def measured(finished: Finished, log: TrialLog, report: MonitorReport | None) -> dict[str, Any]:
    """Returns the peaks over probe and training, torch's from inside and NVML's from outside."""
    found: dict[str, Any] = {
        "allocated_bytes": finished.allocated_bytes,
        "reserved_bytes": finished.reserved_bytes,
        "leaked_bytes": finished.leaked_bytes,
        "base_intact": finished.base_intact,
    }
    if finished.survivors:
        found["survivors"] = list(finished.survivors)
    if len(log.step_seconds) > 1:
        found["step_seconds"] = median(log.step_seconds[1:])  # the first one warms up
    if (probed := log.probed) is not None:
        found["probe_allocated_bytes"] = probed.allocated_bytes
        found["probe_reserved_bytes"] = probed.reserved_bytes
        found["probe_step_seconds"] = probed.step_seconds
        found["parts"] = probed.parts
        if ratio := probe_miss(probed.allocated_bytes, finished.allocated_bytes):
            found["probe_miss"] = ratio
    if report is not None:
        found |= {name: v for name, v in _seen(report).items() if name != "seconds"}
        found["process_bytes_source"] = report.process_bytes_source
        found["samples_per_second"] = report.achieved_hz
        found["by_phase"] = {
            name: _seen(phase) for name, phase in report.by_phase.items() if phase.samples
        }
    return found


def probe_miss(probe_bytes: int | None, run_bytes: int | None) -> float | None:
    """Returns the run's peak as a multiple of the probe's if the probe did not bound it."""
    if not probe_bytes or run_bytes is None or run_bytes <= PROBE_TOLERANCE * probe_bytes:
        return None
    return run_bytes / probe_bytes


def blame_others(result: TrialResult, taken_bytes: int) -> TrialResult:
    """Adds to an out-of-memory that other programs took `taken_bytes` of the budget."""
    error = dict(result.error or {})
    error["others_took_bytes"] = taken_bytes
    error["message"] = (
        f"another program took {format_bytes(taken_bytes)} of the card during the trial; "
        f"{error.get('message', '')}"
    )
    error["remedy"] = "close what else uses the GPU: `nvidia-smi` lists it"
    return replace(result, error=error)


def _seen(peaks: PhasePeaks) -> dict[str, Any]:
    seen = {
        "seconds": peaks.seconds,
        "process_bytes": peaks.peak_process_bytes,
        "device_bytes": peaks.peak_device_bytes,
        "utilization_percent": peaks.mean_utilization_percent,
        "power_watts": peaks.mean_power_watts,
        "temperature_celsius": peaks.peak_temperature_celsius,
        "sm_clock_mhz": peaks.mean_sm_clock_mhz,
        "least_sm_clock_mhz": peaks.least_sm_clock_mhz,
    }
    return {name: value for name, value in seen.items() if value is not None}
