"""Full and freeze tuning: the base's own weights are trained, and there is no adapter."""

from __future__ import annotations

from dataclasses import replace

from vram_search.estimate.memory.elements import FP32
from vram_search.estimate.memory.workload import Workload

NOT_MEASURED = (
    "gradients and optimizer states of the trained weights are counted; no such training was "
    "measured here"
)
"""Why the answer stays open where the counted bytes fit."""


def with_full_tuning(workload: Workload, element_bytes: int) -> Workload:
    """The training of all weights in place of an adapter's.

    Args:
        element_bytes: of a weight and its gradient: 4 (fp32, under autocast) or 2 (bf16).
    """
    return replace(
        workload,
        lora_modules=workload.shape.every_module,
        lora_rank=1,
        lora_dropout=0.0,
        use_dora=False,
        prepare_for_kbit_training=element_bytes == FP32,
        has_autocast=True,  # the adapter that stands for inputs makes no fp32 copies
        trained_base_parameters=workload.shape.parameters,
        trained_base_element_bytes=element_bytes,
    )


def with_trained_layers(workload: Workload, layers: int, element_bytes: int) -> Workload:
    """The training of some layers' weights; activations of all layers are counted.

    Args:
        layers: number of trained layers, or its negative where they are the first ones.
    """
    shape = workload.shape
    share = min(abs(layers), shape.num_hidden_layers) / shape.num_hidden_layers
    of_layers = shape.parameters - shape.embedding_parameters
    return replace(
        with_full_tuning(workload, element_bytes),
        prepare_for_kbit_training=False,
        trained_base_parameters=round(share * of_layers),
    )
