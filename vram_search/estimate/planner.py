"""Chooses the memory plan: the fastest that is predicted to fit the card."""

from __future__ import annotations

from dataclasses import dataclass

from vram_search.errors import InputError
from vram_search.estimate.calibration import hardware_for
from vram_search.estimate.limit import Limit
from vram_search.estimate.memory import Estimate, estimate_base_bytes, predict
from vram_search.estimate.workload import Workload
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


@dataclass(frozen=True)
class PlannedTrial:
    """A plan, its predicted bytes, and its cost relative to other plans of the same trial."""

    plan: MemoryPlan
    estimate: Estimate
    relative_cost: float

    def fits(self, budget_bytes: int, margin: float) -> bool:
        """Whether the required bytes, raised by the margin (0.02 is 2 %), are within the budget."""
        if self.estimate.allocated_bytes * (1 + margin) > budget_bytes:
            return False  # required bytes are no fewer, and may cost a replay of the allocator
        return self.estimate.required_bytes * (1 + margin) <= budget_bytes

    def excess(self, budget_bytes: int, margin: float) -> float:
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
    memory_plans = [
        _plan(hyperparameters, card, pins, micro_batch, checkpointing, eval_cutoff_len)
        for micro_batch in _micro_batches(hyperparameters.batch_size, pins)
        for checkpointing in _choices(pins.gradient_checkpointing, (False, True))
    ]
    workloads = [
        workload_of(shape, hyperparameters, plan, eval_cutoff_len) for plan in memory_plans
    ]
    hardware = hardware_for(card)
    estimates = [predict(workload, hardware) for workload in workloads]
    planned = [
        PlannedTrial(plan, predicted, _relative_cost(hyperparameters, plan))
        for plan, predicted in zip(memory_plans, estimates, strict=True)
    ]
    return sorted(planned, key=lambda p: (p.relative_cost, p.estimate.allocated_bytes))


def choose_plan(
    candidates: list[PlannedTrial], budget_bytes: int, margin: float
) -> PlannedTrial | None:
    """The fastest plan that fits with its margin (`margin_for`), or None.

    Args:
        candidates: fastest first, as `plans` gives them.
    """
    return next((c for c in candidates if c.fits(budget_bytes, margin)), None)


def smallest(candidates: list[PlannedTrial]) -> PlannedTrial:
    """The plan that needs the fewest bytes."""
    return min(candidates, key=lambda c: c.estimate.required_bytes)


def check_card_holds_base(shape: ModelShape, card: Card) -> None:
    """Refuses a card on which not even the quantised base model fits.

    Raises:
        InputError: with the bytes on both sides; or the card's calibration is damaged.
    """
    limit = Limit.of(card, shape)
    needed = estimate_base_bytes(shape) + 2 * limit.hardware.cublas_workspace_bytes
    if needed > limit.budget_bytes:
        raise InputError(
            f"the card {card.label} is too small for this base model: its weights alone take "
            f"{format_bytes(needed)} in NF4, the card leaves {format_bytes(limit.budget_bytes)}",
            "choose a smaller model or a larger card",
        )


def _plan(
    hp: Hyperparameters,
    card: Card,
    pins: PlanPins,
    micro_batch: int,
    checkpointing: bool,
    eval_cutoff_len: int,
) -> MemoryPlan:
    eval_batch = min(MAX_EVAL_BATCH, max(1, micro_batch * hp.cutoff_len // eval_cutoff_len))
    expandable = pins.expandable_segments
    return MemoryPlan(
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=hp.batch_size // micro_batch,
        gradient_checkpointing=checkpointing,
        enable_liger_kernel=bool(pins.enable_liger_kernel),
        per_device_eval_batch_size=pins.per_device_eval_batch_size or eval_batch,
        expandable_segments=card.platform == "linux" if expandable is None else expandable,
    )


def workload_of(
    shape: ModelShape, hp: Hyperparameters, plan: MemoryPlan, eval_cutoff_len: int
) -> Workload:
    """A trial with this plan. Its texts differ in length, and nothing is upcast.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    return Workload(
        shape=shape,
        lora_modules=tuple(shape.target_modules(hp.lora_target)),
        lora_rank=hp.lora_rank,
        optimizer=hp.optim,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        cutoff_len=hp.cutoff_len,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        fused_linear_cross_entropy=plan.enable_liger_kernel,
        per_device_eval_batch_size=plan.per_device_eval_batch_size,
        eval_cutoff_len=eval_cutoff_len,
        equal_lengths=False,
        expandable_segments=plan.expandable_segments,
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
