"""Answers `merge`: the merged model, and its eval_loss beside the recorded one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vram_search.answers.adapter import KeptAdapter
from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.protocol import Converted, OllamaWritten
from vram_search.units import format_bytes

SAFETENSORS = "bf16 in safetensors"
QUANTIZED = ("q8_0", "q4_0")
ADAPTER = "adapter"
"""Kind of a GGUF file that holds the adapter alone."""


@dataclass(frozen=True, kw_only=True)
class MergeAnswer(StudyAnswer):
    """A merged model on the disk."""

    trial: int
    run: str | None = field(
        metadata=described("Product run (p3); null if the search trained the adapter.")
    )
    folder: str = field(metadata=described("Folder of the merged model."))
    size_bytes: int
    written_as: str = field(
        metadata=described(
            "Form of the weights: bf16 in safetensors, or of a GGUF, or the adapter in one."
        )
    )
    notes: list[str] = field(metadata=described("Remarks, a sentence each."))
    recorded_eval_loss: float | None = field(
        metadata=described("Nats per token of base in NF4 and adapter, as recorded.")
    )
    merged_eval_loss: float | None = field(
        metadata=described("Nats per token of the merged model; null if it was not measured.")
    )
    measured_in: str = field(
        metadata=described("The dtype in which the merged model was measured.")
    )
    difference: float | None = field(metadata=described("Merged minus recorded."))
    tolerance: float = field(metadata=described("Nats per token by which it may be worse."))
    agrees: bool | None = field(
        metadata=described(
            "False if the merged model is worse by more; null if it was not measured."
        )
    )
    sentence: str


def merge_answer(
    adapter: KeptAdapter, merged: Converted, folder: Path, tolerance: float
) -> MergeAnswer:
    """Builds the answer."""
    before, after = adapter.eval_loss, merged.eval_loss
    difference = None if before is None or after is None else after - before
    agrees = None if difference is None else difference <= tolerance
    return MergeAnswer(
        **study_fields(adapter.study),
        trial=adapter.trial.number,
        run=adapter.run.name if adapter.run else None,
        folder=str(folder),
        size_bytes=merged.size_bytes,
        written_as=f"{merged.kind} in GGUF" if isinstance(merged, OllamaWritten) else SAFETENSORS,
        notes=list(merged.notes) if isinstance(merged, OllamaWritten) else [],
        recorded_eval_loss=before,
        merged_eval_loss=after,
        measured_in=merged.dtype,
        difference=difference,
        tolerance=tolerance,
        agrees=agrees,
        sentence=_sentence(adapter, merged, difference, tolerance),
    )


def _is_adapter(merged: Converted) -> bool:
    """Returns True if the adapter was written alone."""
    return isinstance(merged, OllamaWritten) and merged.kind == ADAPTER


def _sentence(
    adapter: KeptAdapter, merged: Converted, difference: float | None, tolerance: float
) -> str:
    what = "The GGUF file" if isinstance(merged, OllamaWritten) else "The merged model"
    if _is_adapter(merged):
        what = "The base in 16 bits with the adapter of the GGUF file"
    if difference is None:
        return f"{what} ({format_bytes(merged.size_bytes)}) was not measured."
    figures = (
        f"{what} has eval_loss {merged.eval_loss:.4f} on the same rows, measured in "
        f"{merged.dtype}; with the base in NF4 it was {adapter.eval_loss:.4f}"
    )
    if difference > tolerance:
        remedy = "The adapter was trained on the rounded weights of NF4: use it on the base in NF4."
        if isinstance(merged, OllamaWritten) and merged.kind in QUANTIZED:
            remedy = f"That is what {merged.kind} costs, or a part of it: try q8_0 or bf16."
        return f"{figures}: {difference:.4f} WORSE, more than {tolerance:g}. {remedy}"
    if difference < -tolerance:
        return f"{figures}: {-difference:.4f} better, since the base is not quantised any more."
    return f"{figures}: a difference of {difference:+.4f}, within {tolerance:g}."
