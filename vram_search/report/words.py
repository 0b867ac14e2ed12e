"""Words for a trial, the same in every table and answer. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vram_search.report.figures import card_title, measured_on, peak, required_bytes
from vram_search.report.trial_fields import StudyFields, TrialFields
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.units import format_bytes


def peak_words(trial: TrialFields, study: StudyFields) -> str:
    """The peak with its origin: "3.42 GiB predicted for NVIDIA GeForce RTX 5060 Ti 16 GB"."""
    size, origin = peak(trial)
    if size is None:
        return "unknown"
    if origin == "measured":
        return f"{format_bytes(size)} reserved, measured: {measured_on(trial)}"
    return f"{format_bytes(size)} needed, predicted for {card_title(study)}"


def needed_words(trial: TrialFields, study: StudyFields) -> str:
    """The required bytes with their origin, and the measured peak beside them."""
    size, origin = required_bytes(trial)
    if size is None:
        return peak_words(trial, study)
    words = f"{format_bytes(size)}, {origin}"
    if origin == "predicted":
        words += f" for {card_title(study)}"
    reserved = (trial.measured or {}).get("reserved_bytes")
    if reserved is not None:
        words += f"; measured peak {format_bytes(reserved)} reserved on {measured_on(trial)}"
    return words


def bytes_caption(trials: Sequence[TrialFields], study: StudyFields) -> str:
    """Says of a table's GiB column where its figures come from."""
    origins = {peak(trial)[1] for trial in trials if peak(trial)[0] is not None}
    card = card_title(study)
    if not origins:
        return "GiB: not known"
    if origins == {"predicted"}:
        return f"GiB: VRAM needed, predicted for {card}"
    places = sorted({measured_on(trial) for trial in trials if peak(trial)[1] == "measured"})
    caption = f"GiB: peak reserved bytes, measured: {', '.join(places)}"
    if origins == {"measured"}:
        return f"{caption}; the study's card: {card}"
    return f"{caption}; with ~ VRAM needed, predicted for {card}"


def peak_cell(trial: TrialFields) -> str:
    """For a narrow column; ~ marks a prediction."""
    size, origin = peak(trial)
    if size is None:
        return "-"
    return f"~{format_bytes(size)}" if origin == "predicted" else format_bytes(size)


def loss_cell(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def hyperparameter_words(hp: dict[str, Any]) -> str:
    """One line: "all r16 a32, cutoff 512, batch 8, lr 2.0e-04, adamw_8bit"; ? where unknown."""
    said = [d for d in DIMENSIONS if not d.is_optional or d.value_in(hp) != d.default]
    adapter = " ".join(d.in_words(d.value_in(hp)) for d in said if d.group == "adapter")
    rest = [d for d in said if d.group == "training"]
    rest.sort(key=lambda dimension: dimension.is_name)  # a name alone comes last
    words = ", ".join([adapter, *(d.in_words(d.value_in(hp)) for d in rest)])
    model = hp.get("model")
    return words if model is None else f"{model}: {words}"


def known_cell(value: object) -> str:
    """A hyperparameter for a column; an imported run's may be unknown."""
    return "?" if value is None else str(value)


def kind_words(trial: TrialFields) -> str:
    """An imported run's kind: "dpo", "use_dora"; empty for plain supervised LoRA training."""
    adapter = (trial.provenance or {}).get("adapter") or {}
    return ", ".join(filter(None, (trial.other_training, adapter_words(adapter))))


def adapter_words(adapter: Mapping[str, Any]) -> str:
    """ "use_dora, modules_to_save embed_tokens lm_head"; empty for plain LoRA."""
    return ", ".join(
        key if value is True else f"{key} {_words(value)}" for key, value in adapter.items()
    )


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def plan_words(plan: dict[str, Any] | None) -> str:
    """One line: "micro-batch 4 x 2, gradient checkpointing, eval batch 4"."""
    if plan is None:
        return "none"
    batch = plan.get("per_device_train_batch_size", "?")  # damaged values are left out
    words = [f"micro-batch {batch} x {plan.get('gradient_accumulation_steps', '?')}"]
    checkpointing = "" if plan.get("gradient_checkpointing") else "no "
    words.append(f"{checkpointing}gradient checkpointing")
    if plan.get("enable_liger_kernel"):
        words.append("fused cross entropy")
    words.append(f"eval batch {plan.get('per_device_eval_batch_size', '?')}")
    if plan.get("expandable_segments"):
        words.append("expandable segments")
    return ", ".join(words)


def phase_word(phase: str) -> str:
    """A phase of a trial as people read it; `between` is the time since the trial before."""
    return "waiting" if phase == "between" else phase


def repeat_words(trial: TrialFields, earlier: TrialFields | None) -> str:
    """The trial that a trial repeats, in words; empty if it repeats none."""
    if trial.retry_of is None:
        return ""
    if earlier is None:
        return f"repeats trial {trial.retry_of}"
    if earlier.outcome == "lost" and trial.resumed_step is not None:
        return f"resumed at step {trial.resumed_step}: trial {earlier.number} was lost"
    if earlier.outcome == "lost":
        return f"repeats trial {earlier.number}, which was lost"
    return f"restarted: trial {earlier.number} was stopped too early"


def error_words(trial: TrialFields) -> str:
    """The error of a trial, or the reason why it was stopped, in one line; empty without one."""
    if not trial.error:
        return ""
    is_fault = trial.outcome != "pruned" and trial.error.get("stage")
    where = f"in {trial.error['stage']}: " if is_fault else ""
    return f"{where}{trial.error.get('message', '')}"
