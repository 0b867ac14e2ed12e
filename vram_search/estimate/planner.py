"""Chooses the memory plan: the fastest that is predicted to fit the card."""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.errors import InputError
from vram_search.estimate.hardware import Hardware
from vram_search.estimate.memory import Estimate, estimate, estimate_base_bytes
from vram_search.spec.card import Card
from vram_search.spec.hyperparameters import Hyperparameters
from vram_search.spec.plan import MemoryPlan, PlanPins
from vram_search.spec.shape import ModelShape
from vram_search.units import format_bytes

PASS_OVERHEAD_TOKENS = 400
"""What one pass over the layers costs beyond its tokens (launches, dequantising every weight), in
tokens. It orders plans; it predicts no seconds."""
PASSES = 2
"""Forward, and backward to the inputs alone: the base is frozen."""
PASSES_CHECKPOINTED = 3
MAX_EVAL_BATCH = 16
MARGIN = 0.03
"""Share of the predicted required bytes kept free for what the closed form misses."""


@dataclass(frozen=True)
class PlannedTrial:
    """A plan, its predicted bytes, and its cost relative to other plans of the same trial."""

    plan: MemoryPlan
    estimate: Estimate
    relative_cost: float

    def fits(self, budget_bytes: int, margin: float = MARGIN) -> bool:
        return self.estimate.required_bytes * (1 + margin) <= budget_bytes

    def excess(self, budget_bytes: int, margin: float = MARGIN) -> float:
        """Predicted share of the budget by which it does not fit; <= 0 where it fits."""
        return self.estimate.required_bytes * (1 + margin) / budget_bytes - 1


def plans(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    card: Card,
    pins: PlanPins,
    *,
    eval_cutoff_len: int,
) -> list[PlannedTrial]:
    """Every plan that the pins allow, fastest first.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    hp = hyperparameters
    candidates = []
    for micro_batch in _micro_batches(hp.batch_size, pins):
        for checkpointing in _choices(pins.gradient_checkpointing, (False, True)):
            tokens = micro_batch * hp.cutoff_len
            plan = MemoryPlan(
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=hp.batch_size // micro_batch,
                gradient_checkpointing=checkpointing,
                enable_liger_kernel=bool(pins.enable_liger_kernel),
                per_device_eval_batch_size=pins.per_device_eval_batch_size
                or min(MAX_EVAL_BATCH, max(1, tokens // eval_cutoff_len)),
                expandable_segments=pins.expandable_segments
                if pins.expandable_segments is not None
                else card.platform == "linux",
            )
            predicted = estimate(shape, hp, plan, card, eval_cutoff_len=eval_cutoff_len)
            candidates.append(PlannedTrial(plan, predicted, _relative_cost(hp, plan)))
    return sorted(candidates, key=lambda c: (c.relative_cost, c.estimate.required_bytes))


def choose_plan(
    candidates: list[PlannedTrial], budget_bytes: int, margin: float = MARGIN
) -> PlannedTrial | None:
    """The fastest plan that fits, or None."""
    return next((c for c in candidates if c.fits(budget_bytes, margin)), None)


def smallest(candidates: list[PlannedTrial]) -> PlannedTrial:
    """The plan that needs the fewest bytes."""
    return min(candidates, key=lambda c: c.estimate.required_bytes)


def check_card_holds_base(shape: ModelShape, card: Card) -> None:
    """Refuses a card on which not even the quantised base model fits.

    Raises:
        InputError: with the bytes on both sides.
    """
    needed = estimate_base_bytes(shape) + 2 * Hardware.of(card).cublas_workspace_bytes
    if needed > card.budget_bytes:
        raise InputError(
            f"the card {card.label} is too small for this base model: its weights alone take "
            f"{format_bytes(needed)} in NF4, the card leaves {format_bytes(card.budget_bytes)}",
            "choose a smaller model or a larger card",
        )


def _micro_batches(batch_size: int, pins: PlanPins) -> list[int]:
    if pins.per_device_train_batch_size is not None:
        return [pins.per_device_train_batch_size]  # StudySpec holds that it divides batch_size
    return [size for size in range(1, batch_size + 1) if batch_size % size == 0]


def _choices(pinned: bool | None, otherwise: tuple[bool, ...]) -> tuple[bool, ...]:
    return otherwise if pinned is None else (pinned,)


def _relative_cost(hp: Hyperparameters, plan: MemoryPlan) -> float:
    passes = PASSES_CHECKPOINTED if plan.gradient_checkpointing else PASSES
    tokens = plan.per_device_train_batch_size * hp.cutoff_len
    return plan.gradient_accumulation_steps * passes * (tokens + PASS_OVERHEAD_TOKENS)
