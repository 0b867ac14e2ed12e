"""Bytes of a model without a formula, from traces of its own code.

`vram_search.trace` fits each model once, in a process of its own; the fits are kept in the cache.
With `VRAM_SEARCH_TRACE=0`, without torch, or if a trace fails, the generic formula answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.objectives import SFT
from vram_search.estimate.memory.peaks import fused_chunk_bytes
from vram_search.estimate.memory.persistent import adapter_bytes
from vram_search.estimate.memory.workload import Workload
from vram_search.spec.liger import LigerPatches, liger_patches
from vram_search.spec.model_tree import name_expression
from vram_search.spec.shape import ModelShape

if TYPE_CHECKING:  # what only a traced model needs is imported for one
    from vram_search.estimate.memory.trace_fit import Peak
    from vram_search.estimate.trace_store import RangedFit, TraceQuery

RESERVED_RATIO = 1.13
"""Reserved to allocated bytes: the median of the 28 runs in `tests/fixtures/families_truth.jsonl`.
The allocator is not replayed for a traced model."""
ANCHORS = (256, 1024, 2048)
"""Lengths that are traced where a model runs other requests at each length (loops over chunks).
Bytes between them are linear; longer rows go on from the last two."""
ROUTINGS = ("worst", "balanced")
"""Names of the routings that `RangedFit.fits` are of."""
USUAL = 1024
"""Tokens of a row of the training that decides whether a model can be traced."""


@dataclass(frozen=True)
class TracedPeaks:
    """The largest live bytes of a training and of its evaluations, without what stays."""

    training: Peak
    evaluation: Peak | None
    routing: str
    """The routing to experts at the training's peak, `worst` or `balanced`; empty if bytes do not
    depend on it."""


def traced_peaks(workload: Workload, *, prefers_cudnn: bool = False) -> TracedPeaks | None:
    """The peaks by a trace; None where a formula answers, or no trace can be made.

    Args:
        prefers_cudnn: as in `Hardware`.
    """
    if not _is_traced(workload):
        return None
    rows, tokens = workload.per_device_train_batch_size, workload.cutoff_len
    earlier = adapter_bytes(workload) if workload.gradient_accumulation_steps > 1 else None
    largest = partial(_largest_peak, workload, prefers_cudnn=prefers_cudnn)
    training = largest(rows, tokens, evaluates=False, earlier=earlier)
    if training is None:
        return None
    evaluation = None
    if workload.per_device_eval_batch_size:
        evaluation = largest(
            workload.per_device_eval_batch_size,
            workload.eval_cutoff_len,
            evaluates=True,
            earlier=None,
        )
        if evaluation is None:
            return None
    return TracedPeaks(training[1], evaluation and evaluation[1], training[0])


def is_traced(shape: ModelShape) -> bool:
    """True if a trace answers for a model; its first training is traced now if none was yet."""
    return _has_code(shape) and traced_peaks(usual_workload(shape)) is not None


def usual_workload(shape: ModelShape) -> Workload:
    """A training by which one model is compared with itself: an adapter on all layers, one row."""
    return Workload(
        shape=shape,
        lora_modules=shape.estimated_modules("all"),
        lora_rank=16,
        optimizer="adamw_8bit",
        per_device_train_batch_size=1,
        cutoff_len=USUAL,
    )


def evaluation_copies(workload: Workload) -> int:
    """Logits in fp32 and their log-softmax, of as many tokens as are looked at together."""
    return 2 * FP32 * workload.shape.vocab_size * workload.eval_fp32_tokens


def _has_code(shape: ModelShape) -> bool:
    """True if the model has no formula, its module tree is known, and models are traced."""
    if not shape.not_modelled or shape.tree is None:
        return False
    from vram_search.estimate.trace_store import is_on

    return is_on()


def _is_traced(workload: Workload) -> bool:
    if not workload.lora_modules or not _has_code(workload.shape):
        return False
    is_other = (
        workload.cut_cross_entropy
        or workload.quantized_experts
        or workload.whole_parameters
        or workload.trained_base_parameters
        or workload.use_dora
    )
    return not is_other and workload.objective == SFT


def _query(workload: Workload, rows: int, *, padded: bool, prefers_cudnn: bool) -> TraceQuery:
    from vram_search.estimate.trace_store import TraceQuery

    tree = workload.shape.tree
    assert tree is not None
    return TraceQuery(
        config=tree.config,
        lora_target=name_expression(workload.lora_groups),
        gradient_checkpointing=workload.gradient_checkpointing,
        quantization=workload.quantization,
        double_quantization=workload.double_quantization,
        attention=workload.attention,
        prepare_for_kbit_training=workload.prepare_for_kbit_training,
        reentrant_checkpointing=workload.reentrant_checkpointing,
        drops_out=workload.lora_dropout > 0,
        padded=padded,
        several_rows=rows > 1,
        use_liger_kernel=_liger(workload) is not None,
        prefers_cudnn=prefers_cudnn,
    )


def _liger(workload: Workload) -> LigerPatches | None:
    """Returns what Liger replaces here; None if it is not used or does not know the model."""
    tree = workload.shape.tree
    assert tree is not None
    if not workload.fused_linear_cross_entropy:
        return None
    return liger_patches(tree.model_type, tree.text_model_type)


def _largest_peak(
    workload: Workload,
    rows: int,
    tokens: int,
    *,
    evaluates: bool,
    earlier: float | None,
    prefers_cudnn: bool,
) -> tuple[str, Peak] | None:
    """The routing to experts and the peak at the largest of them.

    Rows of different lengths make batches with padding, whose attention takes a mask, and batches
    of whole rows, whose attention takes none. Either may need more. Joined rows have a mask.
    """
    kinds: tuple[bool, ...] = (True, False) if rows > 1 and not workload.equal_lengths else (False,)
    if workload.packed and not evaluates:
        kinds = (True,)
    found: list[tuple[str, Peak]] = []
    for padded in kinds:
        query = _query(workload, rows, padded=padded, prefers_cudnn=prefers_cudnn)
        peaks = _peaks(workload, query, rows, tokens, evaluates=evaluates, earlier=earlier)
        if not peaks:
            return None
        found += peaks.items()
    return max(found, key=lambda one: one[1].total)


def _peaks(
    workload: Workload,
    query: TraceQuery,
    rows: int,
    tokens: int,
    *,
    evaluates: bool,
    earlier: float | None,
) -> dict[str, Peak]:
    """The peak of each routing; empty without a trace."""
    from vram_search.estimate.memory.trace_fit import Peak
    from vram_search.estimate.trace_store import find_fit

    patches = _liger(workload)
    fuses = patches is not None and patches.fuses_loss and not evaluates
    chunk = fused_chunk_bytes(workload) if fuses else 0

    def at(length: int, found: RangedFit) -> list[Peak]:
        return [
            fit.peak(
                rows * length / found.unit if found.unit else rows,
                found.unit or length,
                workload.lora_rank,
                evaluates=evaluates,
                earlier_gradients=earlier,
                expandable=workload.expandable_segments,
                chunk_bytes=chunk,
            )
            for fit in found.fits
        ]

    found = find_fit(query, tokens, anchors=ANCHORS)
    if not found:
        return {}
    names = ROUTINGS if len(next(iter(found.values())).fits) > 1 else ("",)
    if len(found) == 1:
        (only,) = found.values()
        return dict(zip(names, at(tokens, only), strict=True))
    (low, first), (high, second) = found.items()
    share = (tokens - low) / (high - low)
    mixed = {}
    for name, one, other in zip(names, at(low, first), at(high, second), strict=True):
        parts = [(1 - share) * a + share * b for a, b in zip(one[1:], other[1:], strict=True)]
        mixed[name] = Peak(other.phase, *parts)
    return mixed
