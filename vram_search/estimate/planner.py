"""Chooses the memory plan: the fastest that is predicted to fit the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

from vram_search.errors import InputError
from vram_search.estimate.calibration import hardware_for
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import Estimate, estimate_base_bytes, predict
from vram_search.estimate.memory.traced import usual_workload
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.step_time import Speed, StepTimeModel, padded_tokens, step_seconds
from vram_search.spec.base_storage import unquantised_words
from vram_search.spec.card import Card
from vram_search.spec.families import family_of
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.spec.liger import liger_patches
from vram_search.spec.plan import EVAL_LOSS_TOKENS, MemoryPlan, PlanPins
from vram_search.spec.point import Hyperparameters
from vram_search.spec.shape import ModelShape
from vram_search.units import format_bytes

SMALLER = 0.97
"""A plan counts as needing less when it is predicted to need this share or less."""
MAX_EVAL_BATCH = 16


@dataclass(frozen=True)
class PlannedTrial:
    """A plan with its predicted bytes, and predicted seconds of an optimizer step."""

    plan: MemoryPlan
    estimate: Estimate
    step_seconds: float

    def fits(self, budget_bytes: int, margin: float) -> bool:
        """True if the required bytes, raised by the margin (0.02 is 2 %), are within the budget."""
        if self.estimate.allocated_bytes * (1 + margin) > budget_bytes:
            return False  # required bytes are no fewer, and may cost a replay of the allocator
        return self.estimate.required_bytes * (1 + margin) <= budget_bytes

    def settled(self) -> PlannedTrial:
        """The same with required bytes by a replay of the allocator."""
        return replace(self, estimate=self.estimate.with_replay())

    def excess(self, budget_bytes: int, margin: float) -> float:
        """Predicted share of the budget by which it does not fit; <= 0 where it fits."""
        return self.estimate.required_bytes * (1 + margin) / budget_bytes - 1


class Longest(NamedTuple):
    """Tokens of the longest rows, uncut, and of the shortest."""

    train: int
    eval: int
    shortest_train: int = 0
    """0: unknown, so that rows differ in length."""
    shortest_eval: int = 0

    def are_equal(self, tokens: int, eval_tokens: int) -> bool:
        """True if all rows have the same length when they are cut at these tokens."""
        return self.shortest_train >= tokens and self.shortest_eval >= eval_tokens


def plans(
    shape: ModelShape,
    hyperparameters: Hyperparameters,
    card: Card,
    pins: PlanPins,
    *,
    eval_cutoff_len: int,
    step_time: StepTimeModel | None = None,
    row_tokens: Sequence[int] = (),
    longest: Longest | None = None,
    hardware: Hardware | None = None,
) -> list[PlannedTrial]:
    """Every plan that the pins allow, fastest first.

    Args:
        step_time: step-time model of the device that trains; None: from the card's data sheet.
        row_tokens: lengths of the training rows, uncut, in any order; without them seconds are
            those of rows that reach the cutoff.
        longest: without it bytes are those of rows that reach the cutoffs.
        hardware: where a device emulates the card; None: the card's own.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    step_time = step_time or StepTimeModel(Speed.of(card))
    hardware = hardware or hardware_for(card)
    cutoff_len, batch_size = hyperparameters.cutoff_len, hyperparameters.batch_size
    rows = sorted(row_tokens, reverse=True)
    found = []
    for micro_batch in _micro_batches(batch_size, pins):
        is_padded = rows and not hyperparameters.packing
        padded = padded_tokens(rows, cutoff_len, batch_size, micro_batch) if is_padded else None
        for checkpointing in _choices(pins.gradient_checkpointing, (False, True)):
            plan = _plan(hyperparameters, card, pins, micro_batch, checkpointing)
            workload = workload_of(shape, hyperparameters, plan, eval_cutoff_len, longest)
            plan, estimate = with_evaluation(
                plan, workload, _eval_batches(workload, pins), hardware
            )
            seconds = step_seconds(estimate.workload, step_time, padded)
            found.append(PlannedTrial(plan, estimate, seconds))
    return sorted(found, key=lambda p: (p.step_seconds, p.estimate.allocated_bytes))


def choose_plan(
    candidates: list[PlannedTrial], budget_bytes: int, margin: float
) -> PlannedTrial | None:
    """The fastest plan that fits with its margin (`margin_for`), or None.

    Args:
        candidates: fastest first, as `plans` gives them.
    """
    return next((c for c in candidates if c.fits(budget_bytes, margin)), None)


def settle_plan(
    candidates: list[PlannedTrial], budget_bytes: int, margin: float
) -> PlannedTrial | None:
    """As `choose_plan`, with required bytes by a replay of the allocator, for the one plan that a
    trial trains with or that an answer shows."""
    for candidate in candidates:
        if candidate.estimate.allocated_bytes * (1 + margin) <= budget_bytes:
            settled = candidate.settled()
            if settled.fits(budget_bytes, margin):
                return settled
    return None


def next_smaller(
    candidates: list[PlannedTrial], failed_bytes: int, budget_bytes: int, margin: float
) -> PlannedTrial | None:
    """The plan to try after an out-of-memory: the fastest that needs less and fits, else the
    fastest that needs less; None if no plan does. Required bytes are those of a replay.

    Args:
        failed_bytes: required bytes of the plan that ran out of memory.
    """
    settled = [candidate.settled() for candidate in candidates]
    smaller = [c for c in settled if c.estimate.required_bytes <= failed_bytes * SMALLER]
    return choose_plan(smaller, budget_bytes, margin) or next(iter(smaller), None)


def smallest(candidates: list[PlannedTrial]) -> PlannedTrial:
    """The plan that needs the fewest bytes."""
    return min(candidates, key=lambda c: c.estimate.required_bytes)


def check_card_holds_base(shape: ModelShape, card: Card) -> None:
    """Refuses a card on which not even the quantised base model fits.

    Raises:
        InputError: with the bytes on both sides; or the card's calibration is damaged.
    """
    limit = MemoryBudget.of(card, shape)
    needed = estimate_base_bytes(shape) + 2 * limit.hardware.cublas_workspace_bytes
    if needed > limit.budget_bytes:
        kept = unquantised_words(shape)
        raise InputError(
            f"the card {card.label} is too small for this base model: its weights alone take "
            f"{format_bytes(needed)} in NF4, the card leaves {format_bytes(limit.budget_bytes)}"
            + (f"; {kept}" if kept else ""),
            "choose a smaller model or a larger card",
        )


def decide_liger(
    pins: PlanPins, shape: ModelShape, *, has_gpu: bool, earlier: bool | None = None
) -> PlanPins:
    """The pins with `enable_liger_kernel` decided, for all trials of a study: the resident process
    patches its base model once.

    Args:
        has_gpu: whether there is a CUDA GPU here.
        earlier: what the study's trials so far had; kept while the package is still there.
    """
    if pins.enable_liger_kernel is not None:
        return pins
    wanted = has_gpu and earlier is not False and liger_available(shape)
    return pins.model_copy(update={"enable_liger_kernel": wanted})


def liger_available(shape: ModelShape) -> bool:
    """True if liger-kernel is installed and fuses this model's loss.

    A model without a formula is traced with and without Liger, and must need fewer bytes with it.
    """
    if not all(find_spec(name) is not None for name in ("liger_kernel", "triton")):
        return False
    if not shape.not_modelled:
        return family_of(shape.model_type).liger_fuses_loss
    tree = shape.tree
    if tree is None:
        return False
    patches = liger_patches(tree.model_type, tree.text_model_type)
    return patches is not None and patches.fuses_loss and _liger_saves(shape)


def _liger_saves(shape: ModelShape) -> bool:
    """True if a trace of a usual training needs fewer bytes with Liger."""
    usual = usual_workload(shape)
    plain, fused = (
        predict(replace(usual, fused_linear_cross_entropy=liger)) for liger in (False, True)
    )
    are_traced = plain.is_traced and fused.is_traced
    return are_traced and fused.allocated_bytes < plain.allocated_bytes


def _plan(
    hp: Hyperparameters, card: Card, pins: PlanPins, micro_batch: int, checkpointing: bool
) -> MemoryPlan:
    expandable = pins.expandable_segments
    return MemoryPlan(
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=hp.batch_size // micro_batch,
        gradient_checkpointing=checkpointing,
        enable_liger_kernel=bool(pins.enable_liger_kernel),
        expandable_segments=card.platform == "linux" if expandable is None else expandable,
    )


def _eval_batches(workload: Workload, pins: PlanPins) -> list[int]:
    """Evaluation batches to choose from, largest first: no more tokens than a micro-batch."""
    if pins.per_device_eval_batch_size is not None:
        return [pins.per_device_eval_batch_size]
    return halved(min(MAX_EVAL_BATCH, max(1, workload.tokens // workload.eval_cutoff_len)))


def halved(size: int) -> list[int]:
    """A batch and its halves, down to 1."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes


def with_evaluation(
    plan: MemoryPlan, workload: Workload, sizes: list[int], hardware: Hardware
) -> tuple[MemoryPlan, Estimate]:
    """The plan with the first evaluation batch that is not the peak, else with the last."""
    for size in sizes:
        estimate = predict(replace(workload, per_device_eval_batch_size=size), hardware)
        if estimate.moment != "evaluation":
            break
    return plan.model_copy(update={"per_device_eval_batch_size": size}), estimate


def workload_of(
    shape: ModelShape,
    hp: Hyperparameters,
    plan: MemoryPlan,
    eval_cutoff_len: int,
    longest: Longest | None = None,
) -> Workload:
    """A trial with this plan. Nothing is upcast. An evaluation computes logits, fused loss or not,
    and is done at the trial's own cutoff_len too (`train`). Texts differ in length unless `longest`
    tells that the cutoffs make them all equal.

    Args:
        longest: without it the longest rows reach the cutoffs. Sequences of joined rows always do.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    tokens, eval_tokens, are_equal = hp.cutoff_len, max(eval_cutoff_len, hp.cutoff_len), False
    if longest is not None:
        tokens = tokens if hp.packing else min(tokens, longest.train)
        eval_tokens = min(eval_tokens, longest.eval)
        are_equal = not hp.packing and longest.are_equal(tokens, eval_tokens)
    return Workload(
        shape=shape,
        lora_modules=shape.estimated_modules(hp.lora_target),
        lora_rank=hp.lora_rank,
        optimizer=hp.optim,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        cutoff_len=tokens,
        gradient_checkpointing=plan.gradient_checkpointing,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        fused_linear_cross_entropy=plan.enable_liger_kernel,
        per_device_eval_batch_size=plan.per_device_eval_batch_size,
        eval_cutoff_len=eval_tokens,
        eval_loss_tokens=EVAL_LOSS_TOKENS,
        prediction_loss_only=False,
        packed=hp.packing,
        equal_lengths=are_equal,
        expandable_segments=plan.expandable_segments,
        init_lora_weights=hp.init_lora_weights,
        **{one.name: getattr(hp, one.name) for one in OPTIONAL if one.is_workload},
    )


def _micro_batches(batch_size: int, pins: PlanPins) -> list[int]:
    if pins.per_device_train_batch_size is not None:
        return [pins.per_device_train_batch_size]  # StudySpec holds that it divides batch_size
    return [size for size in range(1, batch_size + 1) if batch_size % size == 0]


def _choices(pinned: bool | None, otherwise: tuple[bool, ...]) -> tuple[bool, ...]:
    return otherwise if pinned is None else (pinned,)
