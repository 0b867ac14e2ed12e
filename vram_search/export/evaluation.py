"""Sets up a tool's own evaluation, which may need more memory than the training.

A trial handles the logits of EVAL_LOSS_TOKENS tokens at a time. transformers' `Trainer` turns those
of a whole batch into fp32, and the loss also keeps their log-softmax (`loss/loss_utils.py`,
`ForCausalLMLoss`): 10 bytes per entry instead of 2. The same holds for a model with Liger's fused
loss, which avoids the logits only in training (liger_kernel `transformers/model/`, `skip_logits`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vram_search.estimate import workload_of
from vram_search.estimate.memory.workload import Workload
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import Longest, halved, with_evaluation
from vram_search.export.trial import ExportedTrial
from vram_search.spec import Hyperparameters, MemoryPlan, ModelShape
from vram_search.units import format_bytes


def trainer_workload(
    shape: ModelShape, hyperparameters: Hyperparameters, plan: MemoryPlan, longest: Longest
) -> Workload:
    """Returns the workload of a training in which transformers' Trainer evaluates.

    Args:
        longest: the longest rows as the tool cuts them.

    Raises:
        ValueError: the model lacks one of the named LoRA modules.
    """
    workload = workload_of(shape, hyperparameters, plan, longest.eval, longest)
    return replace(workload, eval_loss_tokens=None)


def as_evaluated(
    trial: ExportedTrial, eval_tokens: int | None, *, is_packed: bool = False
) -> ExportedTrial:
    """Returns the trial with an evaluation batch that fits the tool's memory.

    It is the largest batch that is not the peak of the run, otherwise one row. If one row does not
    fit the card, the tool does not evaluate.

    Args:
        eval_tokens: length at which the tool cuts evaluation rows; None if it never has the logits
            of a whole batch in fp32.
        is_packed: the tool joins evaluation rows to sequences of that length.
    """
    if eval_tokens is None or trial.shape is None:
        return trial
    eval_length = eval_tokens if is_packed else min(trial.longest.eval, eval_tokens)
    longest = Longest(trial.longest.train, eval_length)
    limit = MemoryBudget.of(trial.card, trial.shape)
    try:
        workload = trainer_workload(trial.shape, trial.hp, trial.plan, longest)
    except ValueError:
        return trial  # a module that the model lacks: the tool's check names it
    sizes = halved(trial.plan.per_device_eval_batch_size)
    plan, found = with_evaluation(trial.plan, workload, sizes, limit.hardware)
    is_peak = found.moment == "evaluation"
    return replace(
        trial,
        plan=plan,
        evaluates=not is_peak or limit.fits(found.required_bytes),
        evaluation_bytes=found.allocated_bytes if is_peak else None,
    )


def evaluation_keys(trial: ExportedTrial) -> dict[str, Any]:
    """Returns transformers' arguments for the evaluation, except for the batch."""
    if not trial.evaluates:
        return {"eval_strategy": "no"}
    return {
        "eval_strategy": "steps",
        "eval_steps": trial.eval_steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def checkpoint_keys(trial: ExportedTrial) -> dict[str, Any]:
    """Returns transformers' arguments for checkpoints.

    Without evaluations every checkpoint is kept; the trial's best step is one of them.
    """
    keys = {"save_strategy": "steps", "save_steps": trial.eval_steps}
    return keys | {"save_total_limit": 2} if trial.evaluates else keys


def evaluation_notes(trial: ExportedTrial, title: str) -> list[str]:
    """Returns the comments about the evaluation for the top of the file.

    Args:
        title: the tool's name and version.
    """
    if trial.evaluation_bytes is None:
        return []
    peak = format_bytes(trial.evaluation_bytes)
    if trial.evaluates:
        return [
            f"{title} turns the logits of an evaluation batch into fp32: {peak} allocated at",
            "most (predicted), which is more than the training takes.",
        ]
    best = trial.record.eval_loss_step or trial.steps
    return [
        f"No evaluation: {title} would turn the logits of a row into fp32, {peak} allocated",
        f"(predicted), which the card does not leave. The trial's best step was {best}.",
    ]
