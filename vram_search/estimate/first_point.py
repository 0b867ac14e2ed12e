"""The configuration that a search of a study tries first, as workloads."""

from __future__ import annotations

from math import log

from vram_search.estimate.limit import Limit
from vram_search.estimate.planner import choose_plan, plans, smallest
from vram_search.estimate.workload import Workload
from vram_search.spec.hyperparameters import Hyperparameters
from vram_search.spec.plan import MemoryPlan
from vram_search.spec.shape import ModelShape
from vram_search.spec.study import StudySpec

PRIOR_RANK = 16
PRIOR_BATCH_SIZE = 16
"""The first published point of `search/priors.py`, whose room loads Optuna."""


def first_point(study: StudySpec) -> Hyperparameters:
    """The point that a search of this study tries first (as `search.priors`)."""
    space = study.search_space
    rank = min(space.lora_rank, key=lambda value: abs(log(value / PRIOR_RANK)))
    return Hyperparameters(
        optim=space.optim[0],
        lora_target="all" if "all" in space.lora_target else space.lora_target[-1],
        lora_rank=rank,
        lora_alpha=study.training.lora_alpha_ratio * rank,
        cutoff_len=max(space.cutoff_len),
        batch_size=min(space.batch_size, key=lambda value: abs(log(value / PRIOR_BATCH_SIZE))),
        learning_rate=space.learning_rate.min,
    )


def planned_workloads(
    study: StudySpec, hp: Hyperparameters, shape: ModelShape, limit: Limit
) -> dict[str, Workload]:
    """The workloads of the chosen plan, where one fits, and of the smallest, by name.

    Raises:
        ValueError: the model lacks a LoRA module that is named.
    """
    candidates = plans(shape, hp, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len)
    chosen = choose_plan(candidates, limit.budget_bytes, limit.margin)
    least = smallest(candidates)
    found = {} if chosen is None else {f"chosen plan, {chosen.plan.label}": chosen.plan}
    if chosen is None or chosen.plan != least.plan:
        found[f"smallest plan, {least.plan.label}"] = least.plan
    return {name: _workload(study, hp, shape, plan) for name, plan in found.items()}


def _workload(
    study: StudySpec, hp: Hyperparameters, shape: ModelShape, plan: MemoryPlan
) -> Workload:
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
        eval_cutoff_len=study.eval_cutoff_len,
        equal_lengths=False,
        expandable_segments=plan.expandable_segments,
    )
