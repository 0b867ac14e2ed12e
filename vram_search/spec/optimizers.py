"""The optimizers that are searched, by their name in transformers (`OptimizerNames`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """State bytes per trainable parameter (fp32 LoRA weights), and who implements it.

    8-bit states: one byte each plus one fp32 scale per block of 256
    (bitsandbytes `optim/optimizer.py`, `Optimizer2State.init_state`).
    """

    state_bytes_per_parameter: float
    library: str
    paged: bool = False


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": Optimizer(8.0, "torch"),
    "adamw_torch_fused": Optimizer(8.0, "torch"),
    "adamw_8bit": Optimizer(2 * (1 + 4 / 256), "bitsandbytes"),
    "lion_8bit": Optimizer(1 + 4 / 256, "bitsandbytes"),
    "lion_32bit": Optimizer(4.0, "bitsandbytes"),
    "paged_adamw_8bit": Optimizer(2 * (1 + 4 / 256), "bitsandbytes", paged=True),
    "paged_adamw_32bit": Optimizer(8.0, "bitsandbytes", paged=True),
    "paged_lion_8bit": Optimizer(1 + 4 / 256, "bitsandbytes", paged=True),
}
