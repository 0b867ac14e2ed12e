"""The optimizers that are searched, by their name in transformers (`OptimizerNames`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """Who implements it, and its states: how many per parameter, in fp32 or 8 bits.

    8-bit states: one byte each plus one fp32 scale per block of 256
    (bitsandbytes `optim/optimizer.py`, `Optimizer2State.init_state`).
    """

    library: str
    states: int
    eight_bit: bool = False
    paged: bool = False


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": Optimizer("torch", 2),
    "adamw_torch_fused": Optimizer("torch", 2),
    "adamw_8bit": Optimizer("bitsandbytes", 2, eight_bit=True),
    "lion_8bit": Optimizer("bitsandbytes", 1, eight_bit=True),
    "lion_32bit": Optimizer("bitsandbytes", 1),
    "paged_adamw_8bit": Optimizer("bitsandbytes", 2, eight_bit=True, paged=True),
    "paged_adamw_32bit": Optimizer("bitsandbytes", 2, paged=True),
    "paged_lion_8bit": Optimizer("bitsandbytes", 1, eight_bit=True, paged=True),
}
