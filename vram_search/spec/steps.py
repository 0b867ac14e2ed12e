"""The number of optimizer steps of a training."""

from __future__ import annotations

import math

from vram_search.spec.plan import MemoryPlan
from vram_search.spec.study import TrainingSpec


def count_steps(training: TrainingSpec, plan: MemoryPlan, rows: int) -> int:
    """Returns the number of optimizer steps over all epochs, as transformers' Trainer counts them
    (`Trainer.set_initial_training_values`).

    Args:
        rows: number of training rows.
    """
    if training.max_steps is not None:
        return math.ceil(training.trial_share * training.max_steps)
    micro_batches = math.ceil(rows / plan.per_device_train_batch_size)
    steps_per_epoch = math.ceil(micro_batches / plan.gradient_accumulation_steps)
    return math.ceil(training.trial_share * training.epochs * steps_per_epoch)
