"""Answers `estimate`: predicted bytes of a configuration against a card. Imports no SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vram_search.answers.named import (
    check_name,
    check_number,
    check_optimizer,
    clean,
    find_card,
    lora_modules,
    model_note,
)
from vram_search.answers.plain import PlainAnswer, PlainPart, described
from vram_search.errors import InputError, ModelNotFoundError
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget, Origin
from vram_search.estimate.verdict import Bound, Verdict, judge
from vram_search.models import find_model
from vram_search.spec.limits import MAX_DROPOUT
from vram_search.spec.not_trained import check_trainable

if TYPE_CHECKING:
    from vram_search.answers.recipe_without_model import RecipeWithoutModel

MAX_SIZE = 2**31
OUTSIDE_TORCH = ("allocator_slack", "context")
"""Parts of the process that are not allocated."""


@dataclass(frozen=True, kw_only=True)
class ChangeAnswer(PlainPart):
    """A change that saves bytes, made alone."""

    name: str = field(metadata=described("Keys and values as LLaMA-Factory spells them."))
    cost: str = field(metadata=described("The price of the change, in a few words."))
    saved_bytes: int = field(metadata=described("Required bytes that the change saves."))
    fits: bool = field(metadata=described("True if the configuration fits with this change alone."))


@dataclass(frozen=True, kw_only=True)
class PlanAnswer(PlainPart):
    """Predicted bytes of one memory plan, and whether it fits the card."""

    name: str
    card: str = field(metadata=described("Slug of configs/cards."))
    fits: bool | None = field(
        metadata=described("Null if something that is not modelled can turn the answer.")
    )
    budget_bytes: int = field(metadata=described("Bytes that the allocator may take on the card."))
    context_bytes: int = field(metadata=described("Taken by CUDA's context."))
    context_origin: Origin = field(
        metadata=described(
            "Source of the context's bytes: assumed, measured (the card's file), or "
            "calibrated on this machine."
        )
    )
    margin: float = field(metadata=described("Share added to required bytes; 0.02 is 2 %."))
    not_modelled: list[str] = field(
        metadata=described(
            "Reasons why the estimate is a generic one; empty if a formula or a trace answers."
        )
    )
    trace_note: str = field(
        metadata=described("Which code a trace of the model followed; empty if none was made.")
    )
    base_note: str = field(
        metadata=described(
            "Weights that NF4 does not hold: experts in 16 bits, or a checkpoint that is "
            "quantised already; empty if there are none."
        )
    )
    bound: Bound = field(
        metadata=described(
            "Kind of figure, where something is not modelled: an upper bound (`needs_less` says "
            "why), a lower one (`needs_more`), open (both), or none if all is modelled."
        )
    )
    needs_more: list[str] = field(
        metadata=described("Reasons why the training needs more by an amount that is not known.")
    )
    needs_less: list[str] = field(metadata=described("Reasons why the training may need less."))
    spare_bytes: int = field(
        metadata=described("Budget minus required bytes and margin; below 0 if it does not fit.")
    )
    spare_percent: float | None = field(
        metadata=described("Spare bytes in percent of the budget; null if the card has none.")
    )
    allocated_bytes: int = field(metadata=described("torch's max_memory_allocated."))
    reserved_bytes: int = field(metadata=described("torch's max_memory_reserved on a roomy card."))
    required_bytes: int = field(
        metadata=described("Smallest allocator limit under which the run completes.")
    )
    process_bytes: int = field(metadata=described("Bytes that NVML shows for the process."))
    moment: str = field(metadata=described("The moment of the peak."))
    parts: dict[str, int] = field(metadata=described("Bytes of the process by part."))
    trainable_parameters: int
    changes: list[ChangeAnswer] = field(metadata=described("The cheapest first."))
    changes_to_fit: list[str] | None = field(
        metadata=described(
            "Changes that make it fit together: empty if it fits, null if all of them are "
            "not enough."
        )
    )
    card_title: str
    total_bytes: int = field(metadata=described("Bytes of the whole card."))
    reserve_bytes: int = field(
        metadata=described("Left on the card for the display and other programs.")
    )
    needed_bytes: float = field(metadata=described("Required bytes with their margin."))

    @property
    def allocated_parts(self) -> dict[str, int]:
        """Bytes of the allocated peak by part."""
        return {name: size for name, size in self.parts.items() if name not in OUTSIDE_TORCH}


@dataclass(frozen=True, kw_only=True)
class EstimateAnswer(PlainAnswer):
    """Predicted bytes; `fits`, `required_bytes` and `parts` are those of the first plan."""

    plans: list[PlanAnswer] = field(
        metadata=described("One plan; for a study the chosen plan, if one fits, and the smallest.")
    )

    @property
    def plan(self) -> PlanAnswer:
        """The first plan."""
        return self.plans[0]

    @property
    def fits(self) -> bool | None:
        """True if required bytes and margin are within the card's budget; None if that is not known
        because something is not modelled."""
        return self.plan.fits

    @property
    def required_bytes(self) -> int:
        """Smallest allocator limit under which the run completes."""
        return self.plan.required_bytes

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the process by part."""
        return self.plan.parts

    @property
    def spare_bytes(self) -> int:
        """Budget minus required bytes and margin; below 0 if it does not fit."""
        return self.plan.spare_bytes


@dataclass(frozen=True, kw_only=True)
class ModelEstimate(EstimateAnswer):
    """The estimate of a model with options."""

    model: str
    model_note: str = field(
        metadata=described(
            "Where the model's shape came from (empty for a folder and a shipped shape), and "
            "the linear layers that lora_target all leaves out."
        )
    )


@dataclass(frozen=True, kw_only=True)
class RecipeEstimate(EstimateAnswer):
    """The estimate of a recipe of another tool."""

    recipe: str = field(metadata=described("Path of the file."))
    source: str = field(metadata=described("The tool that the recipe is for."))
    notes: list[str] = field(
        metadata=described("Sentences on keys that the estimate reads otherwise.")
    )


@dataclass(frozen=True, kw_only=True)
class StudyEstimate(EstimateAnswer):
    """The estimate of a published configuration in a study's search space."""

    study: str
    model: str
    model_note: str = field(
        metadata=described(
            "Where the model's shape came from (empty for a folder and a shipped shape), and "
            "the linear layers that lora_target all leaves out."
        )
    )
    hyperparameters: dict[str, Any] = field(metadata=described("Named as in a study file."))


def estimate(
    model: str,
    card: str | None,
    *,
    lora_rank: int = 8,
    lora_target: str = "all",
    lora_dropout: float = 0.0,
    cutoff_len: int = 1024,
    batch: int = 1,
    accumulate: int = 1,
    optim: str = "adamw_8bit",
    checkpointing: bool = True,
    liger: bool = False,
    eager: bool = False,
    quantization: str = "nf4",
    eval_batch: int = 0,
    prepare_kbit: bool = False,
) -> ModelEstimate:
    """Predicts the peak bytes of a model's QLoRA training on a card. Needs no GPU.

    Args:
        model: slug of configs/models, a hub name, or a model's folder.
        card: a card's name or slug, a size such as "16GB", or "auto" for the GPU in this machine.
        lora_rank: rank of the adapter.
        lora_target: a set (qv, qkvo, all ...), or layer names with commas.
        lora_dropout: share of the adapter's inputs that is zeroed, from 0 to 0.99.
        cutoff_len: tokens of a sequence.
        batch: sequences of a micro-batch.
        accumulate: micro-batches of an optimizer step.
        optim: as transformers names it.
        checkpointing: whether gradient checkpointing is on.
        liger: whether Liger fuses the loss (`enable_liger_kernel`).
        eager: whether attention runs without a fused kernel.
        quantization: form of the base model: nf4, int8 or none (bf16).
        eval_batch: sequences of an evaluation batch; 0: no evaluation.
        prepare_kbit: whether peft's `prepare_model_for_kbit_training` ran.

    Returns:
        Sizes in bytes.

    Raises:
        InputError: a name is not known, or a number is out of range.
    """
    sizes = {
        "lora_rank": lora_rank,
        "cutoff_len": cutoff_len,
        "batch": batch,
        "accumulate": accumulate,
    }
    for name, value in sizes.items():
        check_number(name, value, MAX_SIZE)
    check_number("lora_dropout", lora_dropout, MAX_DROPOUT, lowest=0)
    check_number("eval_batch", eval_batch, MAX_SIZE, lowest=0)
    found_card, found = find_card(card), find_model(model)
    shape = found.shape()
    check_optimizer(optim)
    check_name("quantization", quantization, ("nf4", "int8", "none"))
    if quantization == "nf4":
        check_trainable(shape)
    workload = Workload(
        shape=shape,
        lora_modules=lora_modules(shape, lora_target),
        lora_rank=lora_rank,
        lora_dropout=lora_dropout,
        optimizer=optim,
        per_device_train_batch_size=batch,
        cutoff_len=cutoff_len,
        gradient_checkpointing=checkpointing,
        gradient_accumulation_steps=accumulate,
        quantization=quantization,
        attention="eager" if eager else "sdpa",
        prepare_for_kbit_training=prepare_kbit,
        fused_linear_cross_entropy=liger,
        per_device_eval_batch_size=eval_batch,
        eval_cutoff_len=cutoff_len,
        equal_lengths=False,
        expandable_segments=found_card.platform == "linux",
    )
    verdict = judge(clean(model), workload, MemoryBudget.of(found_card, shape))
    note = model_note(found.note, shape, lora_target)
    return ModelEstimate(model=model, model_note=note, plans=[_plan(verdict)])


def estimate_file(
    file: str | Path, card: str | None = None, model: str = ""
) -> StudyEstimate | RecipeEstimate | RecipeWithoutModel:
    """Predicts the peak bytes of a study's published configuration, or of a recipe.

    Args:
        file: a study, or a recipe: a file of LLaMA-Factory, Axolotl or TRL, or an export.
        card: slug of a card; a study names its own.
        model: a model that is put in the place of the recipe's.

    Returns:
        Sizes in bytes; without them if the recipe's model is not found.

    Raises:
        InputError: the file cannot be used, or the card is not known.
    """
    from vram_search.tools.file_kinds import naming_other_files

    with naming_other_files(Path(file), "estimate"):
        return _estimate_file(Path(file), card, model)


def _estimate_file(
    file: Path, card: str | None, model: str
) -> StudyEstimate | RecipeEstimate | RecipeWithoutModel:
    from vram_search.answers.training_file import NEVER_STUDIES, is_recipe, study_workloads

    if is_recipe(file) or (file.suffix.lower() in NEVER_STUDIES and file.is_file()):
        from vram_search.estimate.recipes.load import load_recipe

        try:
            recipe = load_recipe(file, model)
        except ModelNotFoundError as error:
            if model:
                raise
            from vram_search.answers.recipe_without_model import describe_without_model

            return describe_without_model(file, error)
        workload = recipe.workload
        limit = MemoryBudget.of(find_card(card), workload.shape, objective=workload.objective)
        verdict = judge(
            clean(file.name),
            workload,
            limit,
            needs_more=recipe.needs_more,
            needs_less=recipe.needs_less,
        )
        return RecipeEstimate(
            recipe=str(file), source=recipe.source, notes=list(recipe.notes), plans=[_plan(verdict)]
        )
    if model:
        raise InputError(
            f"--model {model}: {file} is a study, which names its model", "write model.name there"
        )
    study, found, hp, workloads = study_workloads(file, card)
    verdicts = [
        judge(name, workload, MemoryBudget.of(study.card, workload.shape))
        for name, workload in workloads.items()
    ]
    return StudyEstimate(
        study=study.study,
        model=study.base.label,
        model_note=model_note(found.note, found.shape(), hp.lora_target),
        hyperparameters=hp.model_dump(mode="json", exclude={"learning_rate"}),
        plans=[_plan(verdict) for verdict in verdicts],
    )


def _plan(verdict: Verdict) -> PlanAnswer:
    limit, estimate = verdict.limit, verdict.estimate
    return PlanAnswer(
        name=verdict.name,
        card=limit.card.name,
        fits=verdict.fits if verdict.is_known else None,
        budget_bytes=limit.budget_bytes,
        context_bytes=limit.hardware.context_bytes,
        context_origin=limit.origin,
        margin=round(limit.margin, 9),
        not_modelled=list(verdict.not_modelled),
        trace_note=verdict.trace_note,
        base_note=verdict.base_note,
        bound=verdict.bound,
        needs_more=[clean(reason) for reason in verdict.needs_more],
        needs_less=[clean(reason) for reason in verdict.needs_less],
        spare_bytes=verdict.spare_bytes,
        spare_percent=verdict.spare_percent,
        allocated_bytes=estimate.allocated_bytes,
        reserved_bytes=estimate.reserved_bytes,
        required_bytes=estimate.required_bytes,
        process_bytes=estimate.process_bytes,
        moment=estimate.moment,
        parts=estimate.parts,
        trainable_parameters=estimate.trainable_parameters,
        changes=[ChangeAnswer(**vars(change)) for change in verdict.changes],
        changes_to_fit=verdict.changes_to_fit,
        card_title=limit.card.label,
        total_bytes=limit.card.total_bytes,
        reserve_bytes=limit.card.reserve_bytes,
        needed_bytes=limit.needed_bytes(estimate.required_bytes),
    )
