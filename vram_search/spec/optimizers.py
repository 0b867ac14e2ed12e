"""Optimizers by their name in transformers (`OptimizerNames`): modelled, or refused with a reason.

`python -m bench.optimizers` measures the states and temporary copies of the real classes; a test
compares them with this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Optimizer:
    """The facts of an optimizer that decide bytes, seconds and learning rates."""

    library: Literal["torch", "bitsandbytes", "transformers"]
    """States of torch have the dtype of their parameter, those of the others fp32 or 8 bits."""
    states: tuple[int, ...]
    """The state tensors of a parameter; each holds so many elements per element of it."""
    eight_bit: bool = False
    """States take one byte an element and one fp32 scale per block of 256 (bitsandbytes
    `optim/optimizer.py`, `Optimizer2State.init_state`); otherwise they are in fp32."""
    paged: bool = False
    """States are in managed memory, which bitsandbytes never frees."""
    factored: bool = False
    """The states are one value per row and one per column of a matrix (transformers
    `optimization.py`, `Adafactor`)."""
    step_copies: int = 0
    """Temporary fp32 copies of the whole adapter during a step (torch `optim`, foreach)."""
    step_tensors: int = 0
    """Temporary fp32 copies of the largest tensor during a step, where tensors are updated one
    after another."""
    rule: Literal["adam", "lion", "adafactor", "rmsprop", "adagrad", "sgd"] = "adam"
    """The update rule; learning rates differ between rules."""
    eight_bit_form: str | None = None
    """Name of the same optimizer with 8-bit states."""

    @property
    def is_lion(self) -> bool:
        """Updates follow the sign of the momentum, so learning rates are lower than with AdamW."""
        return self.rule == "lion"


_TORCH: Final = "torch"
_BNB: Final = "bitsandbytes"

OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": Optimizer(_TORCH, (1, 1), step_copies=1, eight_bit_form="adamw_8bit"),
    "adamw_torch_fused": Optimizer(_TORCH, (1, 1), eight_bit_form="adamw_8bit"),
    "adamw_8bit": Optimizer(_BNB, (1, 1), eight_bit=True),
    "lion_8bit": Optimizer(_BNB, (1,), eight_bit=True, rule="lion"),
    "lion_32bit": Optimizer(_BNB, (1,), rule="lion", eight_bit_form="lion_8bit"),
    "paged_adamw_8bit": Optimizer(_BNB, (1, 1), eight_bit=True, paged=True),
    "paged_adamw_32bit": Optimizer(
        "bitsandbytes", (1, 1), paged=True, eight_bit_form="paged_adamw_8bit"
    ),
    "paged_lion_8bit": Optimizer(_BNB, (1,), eight_bit=True, paged=True, rule="lion"),
    "paged_lion_32bit": Optimizer(
        "bitsandbytes", (1,), paged=True, rule="lion", eight_bit_form="paged_lion_8bit"
    ),
    "adamw_bnb_8bit": Optimizer(_BNB, (1, 1), eight_bit=True),
    "ademamix": Optimizer(_BNB, (2, 1), eight_bit_form="ademamix_8bit"),
    "ademamix_8bit": Optimizer(_BNB, (2, 1), eight_bit=True),
    "paged_ademamix_32bit": Optimizer(
        "bitsandbytes", (2, 1), paged=True, eight_bit_form="paged_ademamix_8bit"
    ),
    "paged_ademamix_8bit": Optimizer(_BNB, (2, 1), eight_bit=True, paged=True),
    "adafactor": Optimizer("transformers", (), factored=True, step_tensors=3, rule="adafactor"),
    "adagrad": Optimizer(_TORCH, (1,), step_copies=2, rule="adagrad"),
    "rmsprop": Optimizer(_TORCH, (1,), step_copies=2, rule="rmsprop"),
    "rmsprop_bnb": Optimizer(
        "bitsandbytes", (1,), rule="rmsprop", eight_bit_form="rmsprop_bnb_8bit"
    ),
    "rmsprop_bnb_32bit": Optimizer(
        "bitsandbytes", (1,), rule="rmsprop", eight_bit_form="rmsprop_bnb_8bit"
    ),
    "rmsprop_bnb_8bit": Optimizer(_BNB, (1,), eight_bit=True, rule="rmsprop"),
    "sgd": Optimizer(_TORCH, (), step_copies=1, rule="sgd"),
}

_GALORE = "it projects whole weight matrices to a low rank, and here only low-rank matrices train"
_LOMO = "it updates weights during the backward pass, without the steps that a trial is made of"
_OTHER_PACKAGE = "it is in the package {}, which vram-search does not install"

REFUSED_OPTIMIZERS: dict[str, str] = {
    "adamw_torch_xla": "it runs on TPUs only",
    "adamw_torch_npu_fused": "it runs on Ascend NPUs only",
    "adamw_anyprecision": _OTHER_PACKAGE.format("torchdistx"),
    "adamw_torch_4bit": _OTHER_PACKAGE.format("torchao"),
    "adamw_torch_8bit": _OTHER_PACKAGE.format("torchao"),
    "grokadamw": _OTHER_PACKAGE.format("grokadamw"),
    "stable_adamw": _OTHER_PACKAGE.format("torch-optimi"),
    "schedule_free_adamw": _OTHER_PACKAGE.format("schedulefree"),
    "schedule_free_radam": _OTHER_PACKAGE.format("schedulefree"),
    "schedule_free_sgd": _OTHER_PACKAGE.format("schedulefree"),
    "lomo": _LOMO,
    "adalomo": _LOMO,
    **dict.fromkeys(
        [
            "galore_adamw",
            "galore_adamw_8bit",
            "galore_adafactor",
            "galore_adamw_layerwise",
            "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise",
            "apollo_adamw",
            "apollo_adamw_layerwise",
        ],
        _GALORE,
    ),
}
"""Names that transformers accepts and that neither train nor are estimated here -> the reason."""


def optimizer_fault(name: str) -> str:
    """Returns why a name is none of OPTIMIZERS, as a clause."""
    if name in REFUSED_OPTIMIZERS:
        return f"the optimizer {name} is not modelled: {REFUSED_OPTIMIZERS[name]}"
    return "not an optimizer that is searched here"
