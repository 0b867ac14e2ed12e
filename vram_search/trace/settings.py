"""The settings of one traced training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Batch(NamedTuple):
    """A micro-batch of rows of equal length."""

    rows: int
    tokens: int
    """Tokens of one row."""


@dataclass(frozen=True)
class TraceSettings:
    """A training that is traced. Names as in transformers and peft."""

    lora_target: tuple[str, ...] | str
    """Names of modules, or a regular expression, as peft's `target_modules`."""
    lora_rank: int = 16
    gradient_checkpointing: bool = True
    quantization: str = "nf4"
    double_quantization: bool = True
    attention: str = "sdpa"
    prepare_for_kbit_training: bool = False
    reentrant_checkpointing: bool = False
    lora_dropout: float = 0.0
    use_dora: bool = False
    use_liger_kernel: bool = False
    padded: bool = False
    """Rows of a batch have different lengths, so that attention takes a mask."""
    prefers_cudnn: bool = False
    """Attention takes cuDNN's kernel where it can (`Hardware.prefers_cudnn`)."""
