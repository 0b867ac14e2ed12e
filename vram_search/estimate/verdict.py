"""Decides if a configuration fits a card, by how much, and which changes would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vram_search.estimate.changes import Change, changes_to_fit, cheapest_changes
from vram_search.estimate.margin import GENERIC_MARGIN
from vram_search.estimate.memory.predict import Estimate, predict_plausible
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.spec.base_storage import unquantised_words
from vram_search.spec.checkpoint import stored_words
from vram_search.spec.not_modelled import is_far_off, is_hybrid
from vram_search.spec.shape import ModelShape

Bound = Literal["none", "upper", "lower", "open"]
TOO_LOW = "the generic formula was up to two thirds too low for models of this kind"
NOT_TRACED = (
    f"{TOO_LOW}; `vram-search estimate` traces them where torch is installed, unless --no-trace or "
    "VRAM_SEARCH_TRACE=0"
)

ROUTING_WORDS = {
    "worst": "this model loops over its experts, and needs most if all tokens go to the same ones, "
    "which is counted",
    "balanced": "this model loops over its experts, and needs most if all of them get tokens, "
    "which is counted",
}


@dataclass(frozen=True)
class Verdict:
    """A configuration's estimate against a card."""

    name: str
    limit: MemoryBudget
    estimate: Estimate
    not_modelled: tuple[str, ...]
    """Reasons why the estimate is a generic one; empty where a formula or a trace answers."""
    changes: list[Change]
    changes_to_fit: list[str] | None
    """Names of changes that make it fit together: none where it fits, None where all do not."""
    needs_more: tuple[str, ...] = ()
    """Why it needs more than the estimate by an amount that is not known."""
    needs_less: tuple[str, ...] = ()
    """Why it may need less than the estimate."""

    @property
    def trace_note(self) -> str:
        """Which code a trace of the model followed; empty if none was made."""
        if not self.estimate.is_traced:
            return ""
        if self.estimate.routing:
            return f"traced from the model's own code; {ROUTING_WORDS[self.estimate.routing]}"
        if not is_hybrid(self.estimate.workload.shape.not_modelled):
            return "traced from the model's own code"
        from vram_search.estimate.trace_store import FUSED_KERNELS, fused_kernels

        installed = fused_kernels()
        if not installed:
            absent = " or ".join(FUSED_KERNELS)
            return f"traced from the model's own code in plain torch: no {absent} is installed"
        names = " and ".join(installed)
        return f"traced from the model's own code in plain torch; {names}, installed, needs less"

    @property
    def base_note(self) -> str:
        """As `base_note` of the workload."""
        return base_note(self.estimate.workload)

    @property
    def fits(self) -> bool:
        """By the estimate alone."""
        return self.limit.fits(self.estimate.required_bytes)

    @property
    def is_known(self) -> bool:
        """Nothing that is not modelled can turn the answer."""
        return not (self.needs_more if self.fits else self.needs_less)

    @property
    def bound(self) -> Bound:
        """Says if the estimated bytes are a bound, because something is not modelled."""
        if self.needs_more:
            return "open" if self.needs_less else "lower"
        return "upper" if self.needs_less else "none"

    @property
    def spare_bytes(self) -> int:
        """Bytes of the budget left by required bytes and margin; below 0 if it does not fit."""
        return self.limit.spare_bytes(self.estimate.required_bytes)

    @property
    def spare_percent(self) -> float | None:
        """Spare bytes in percent of the card's budget; None if the card has none."""
        budget = self.limit.budget_bytes
        return round(100 * self.spare_bytes / budget, 2) if budget > 0 else None


def base_note(workload: Workload) -> str:
    """Says which weights of a base model are in another form than the workload's; empty if none
    are: experts of a mixture and a model's own linear layers, which nothing quantises, and a
    checkpoint's own format."""
    if words := stored_words(workload.shape.checkpoint):
        return words
    if workload.quantization == "none" or workload.quantized_experts:
        return ""
    return unquantised_words(workload.shape)


def could_trace() -> bool:
    """True if models are traced here, so that one without a trace has a reason of its own."""
    from vram_search.estimate.trace_store import is_on

    return is_on()


def generic_reasons(shape: ModelShape) -> tuple[str, ...]:
    """Reasons why an estimate is generic; a trace that failed is the last."""
    reasons = shape.not_modelled
    if not reasons or shape.tree is None:
        return reasons
    from vram_search.estimate.trace_store import why_untraced

    failed = why_untraced(shape.tree.config)
    return (*reasons, failed) if failed else reasons


def judge(
    name: str,
    workload: Workload,
    limit: MemoryBudget,
    *,
    needs_more: Sequence[str] = (),
    needs_less: Sequence[str] = (),
) -> Verdict:
    """A workload's estimate, and the changes that would save bytes.

    Args:
        needs_more: why the training needs more than the workload by an amount that is not known.
        needs_less: why it may need less.

    Raises:
        InputError: the sizes are absurd.
    """
    estimate = predict_plausible(workload, limit.hardware).with_replay()
    not_modelled = () if estimate.is_traced else generic_reasons(workload.shape)
    if not_modelled:
        limit = replace(limit, margin=max(limit.margin, GENERIC_MARGIN))
    if is_far_off(not_modelled):
        needs_more = (*needs_more, TOO_LOW if could_trace() else NOT_TRACED)
    return Verdict(
        name=name,
        limit=limit,
        estimate=estimate,
        not_modelled=not_modelled,
        changes=cheapest_changes(workload, limit),
        changes_to_fit=changes_to_fit(workload, limit),
        needs_more=tuple(needs_more),
        needs_less=tuple(needs_less),
    )
