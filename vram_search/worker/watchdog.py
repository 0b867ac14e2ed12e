"""Decides how long a training process may send nothing before it counts as hung."""

from __future__ import annotations

from vram_search.protocol import STALL_SECONDS

PATIENCE_STEPS = 20
"""A training counts as hung after the time of so many predicted optimizer steps. A healthy one
reports its progress after every micro-batch, so this allows steps that are slower by far."""
LEAST_SECONDS = 300.0
"""The first steps compile kernels, and a slow disk may take long to save an adapter."""


def patience_seconds(step_seconds: float, *, has_gpu: bool) -> float:
    """Returns the seconds without progress after which a training counts as hung.

    Args:
        step_seconds: predicted seconds of an optimizer step; trials of this device have corrected
            the prediction (`learnt_step_time`).
        has_gpu: without a GPU the prediction is another device's, and the limit is that of loading.
    """
    if not has_gpu:
        return STALL_SECONDS
    return max(LEAST_SECONDS, PATIENCE_STEPS * step_seconds)
