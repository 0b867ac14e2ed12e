"""The memory plan: the settings that change bytes and seconds, but not the loss."""

from __future__ import annotations

from pydantic import Field

from vram_search.spec.base import Count, Flag, Spec

EVAL_LOSS_TOKENS = 512
"""Number of tokens whose logits an evaluation converts to fp32 at once: an entry needs 2 bytes
instead of 10."""


class MemoryPlan(Spec):
    """The plan that the planner chose, named as in transformers' TrainingArguments and
    LLaMA-Factory."""

    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count
    gradient_checkpointing: Flag
    enable_liger_kernel: Flag = Field(default=False, description="fused linear cross entropy")
    per_device_eval_batch_size: Count = 1
    expandable_segments: Flag = Field(default=False, description="allocator setting, Linux only")

    @property
    def batch_size(self) -> int:
        """Sequences per optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def label(self) -> str:
        """Name such as "micro-batch 4 x 2, gradient checkpointing": what is enabled beside it."""
        batch, accumulated = self.per_device_train_batch_size, self.gradient_accumulation_steps
        words = [f"micro-batch {batch} x {accumulated}"]
        words += ["gradient checkpointing"] if self.gradient_checkpointing else []
        words += ["fused cross entropy"] if self.enable_liger_kernel else []
        return ", ".join(words)


class PlanPins(Spec):
    """The parts of the plan that a study fixes. The planner chooses the others."""

    per_device_train_batch_size: Count | None = Field(
        default=None, description="micro-batch; must divide every batch_size"
    )
    gradient_checkpointing: Flag | None = Field(
        default=None, description="recompute activations in the backward pass"
    )
    enable_liger_kernel: Flag | None = Field(
        default=None,
        description="fused linear cross entropy; default on where liger-kernel is installed, knows "
        "the model, and there is a GPU",
    )
    per_device_eval_batch_size: Count | None = Field(default=None, description="rows per batch")
    expandable_segments: Flag | None = Field(
        default=None, description="allocator setting; default on for Linux cards"
    )
    skip_infeasible: Flag = Field(
        default=True,
        description="false runs also what is predicted not to fit (to meet a real OOM)",
    )
