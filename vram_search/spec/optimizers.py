"""The optimizers that are searched, by their name in transformers (`OptimizerNames`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """The facts of an optimizer that decide bytes, seconds and learning rates."""

    states_per_parameter: int
    eight_bit: bool = False
    """States take one byte each and one fp32 scale per block of 256 (bitsandbytes
    `optim/optimizer.py`, `Optimizer2State.init_state`); otherwise they are in fp32."""
    paged: bool = False
    """States are in managed memory, which bitsandbytes never frees."""
    is_lion: bool = False
    """Updates follow the sign of the momentum, so learning rates are lower than with AdamW."""
    eight_bit_form: str | None = None
    """Name of the same optimizer with 8-bit states."""


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": Optimizer(2, eight_bit_form="adamw_8bit"),
    "adamw_torch_fused": Optimizer(2, eight_bit_form="adamw_8bit"),
    "adamw_8bit": Optimizer(2, eight_bit=True),
    "lion_8bit": Optimizer(1, eight_bit=True, is_lion=True),
    "lion_32bit": Optimizer(1, is_lion=True, eight_bit_form="lion_8bit"),
    "paged_adamw_8bit": Optimizer(2, eight_bit=True, paged=True),
    "paged_adamw_32bit": Optimizer(2, paged=True, eight_bit_form="paged_adamw_8bit"),
    "paged_lion_8bit": Optimizer(1, eight_bit=True, paged=True, is_lion=True),
}
