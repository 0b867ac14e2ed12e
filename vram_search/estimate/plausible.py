"""Predictions as long as the sizes make sense."""

from __future__ import annotations

from vram_search.errors import InputError
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import Estimate, predict
from vram_search.estimate.memory.workload import Workload

ABSURD_BYTES = 2**50
"""1 PiB. No card holds a thousandth of it."""


def predict_plausible(workload: Workload, hardware: Hardware) -> Estimate:
    """`predict`, of what some machine might hold.

    Raises:
        InputError: the sizes multiply to more than ABSURD_BYTES.
    """
    try:
        estimate = predict(workload, hardware)
    except OverflowError:
        estimate = None
    if estimate is None or estimate.required_bytes > ABSURD_BYTES:
        raise InputError(
            f"absurd sizes: micro-batch {workload.per_device_train_batch_size} x cutoff_len "
            f"{workload.cutoff_len} at lora_rank {workload.lora_rank} would need more than a "
            "million GiB on this model",
            "correct the largest of them, or the model's config.json",
        )
    return estimate
