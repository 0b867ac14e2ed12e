"""Hyperparameters (what changes the loss) and the space they are searched in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from vram_search.spec.base import Count, Number, Spec
from vram_search.spec.lora_targets import LORA_TARGET_SETS as LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

MAX_RANK = 1024
MAX_CUTOFF_LEN = 1_048_576


def parse_lora_target(value: object) -> str:
    """One LoRA target as text: a set's name, or module names joined by commas.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, (list, tuple)):
        if not value or not all(isinstance(name, str) for name in value):
            raise ValueError("a list of LoRA modules holds one or more module names")
        value = ",".join(value)
    if not isinstance(value, str):
        raise ValueError("a LoRA target is a set's name or a list of module names")
    names = [name.strip() for name in value.split(",")]
    if not all(name.isidentifier() for name in names):
        raise ValueError("a LoRA module is a name such as q_proj")
    if len(set(names)) != len(names):
        raise ValueError("a LoRA module is named twice")
    if len(names) > 1 and any(name in LORA_TARGET_SETS for name in names):
        raise ValueError("a set's name stands alone, not in a list of modules")
    return ",".join(names)


def _parse_optim(value: object) -> object:
    if isinstance(value, str) and value not in OPTIMIZERS:
        raise ValueError("not an optimizer that is searched here")
    return value


Optim = Annotated[str, Field(strict=True), BeforeValidator(_parse_optim)]
LoraTarget = Annotated[str, BeforeValidator(parse_lora_target)]
Rank = Annotated[int, Field(strict=True, ge=1, le=MAX_RANK)]
CutoffLen = Annotated[int, Field(strict=True, ge=16, le=MAX_CUTOFF_LEN)]
LearningRate = Annotated[Number, Field(gt=0, le=1)]


class Hyperparameters(Spec):
    """One point of the space; names as LLaMA-Factory and transformers spell them."""

    optim: Optim
    lora_target: LoraTarget
    lora_rank: Rank
    lora_alpha: Count
    cutoff_len: CutoffLen
    batch_size: Count = Field(description="effective: sequences per optimizer step")
    learning_rate: LearningRate


class LearningRateRange(Spec):
    """Learning rates from `min` to `max`, searched on a logarithmic scale; or one number."""

    min: LearningRate = Field(description="lowest that is tried")
    max: LearningRate = Field(description="highest that is tried")

    @model_validator(mode="after")
    def _ordered(self) -> LearningRateRange:
        if self.min > self.max:
            raise ValueError("min is above max: the range is empty")
        return self


def _one_or_many(value: object) -> object:
    """A pinned value is a space of one."""
    return value if isinstance(value, (list, tuple)) else [value]


def _lora_targets(value: object) -> object:
    """`[q_proj, v_proj]` alone is a faulty way to write one list; say so instead of guessing."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        loose = [v for v in value if v not in LORA_TARGET_SETS and "," not in v]
        if len(loose) == len(value) and len(value) > 1:
            raise ValueError(
                "module names of one choice need brackets of their own: "
                f"[[{', '.join(loose)}]], or a comma list: ['{','.join(loose)}']"
            )
    return value if isinstance(value, (list, tuple)) else [value]


def _learning_rate_space(value: object) -> object:
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        raise ValueError("write a number, or a range {min: 2.0e-5, max: 1.0e-3}")
    return {"min": value, "max": value}


class SearchSpace(Spec):
    """What is searched. A single value pins a hyperparameter."""

    optim: Annotated[tuple[Optim, ...], Field(min_length=1), BeforeValidator(_one_or_many)] = Field(
        default=("adamw_torch_fused", "adamw_8bit"),
        description="optimizers, as transformers names them",
    )
    lora_target: Annotated[
        tuple[LoraTarget, ...], Field(min_length=1), BeforeValidator(_lora_targets)
    ] = Field(
        default=("qv", "qkvo", "qkvo_gu", "all"), description="layers that get an adapter, by set"
    )
    lora_rank: Annotated[tuple[Rank, ...], Field(min_length=1), BeforeValidator(_one_or_many)] = (
        Field(default=(4, 8, 16, 32, 64), description="of the adapter's matrices")
    )
    cutoff_len: Annotated[
        tuple[CutoffLen, ...], Field(min_length=1), BeforeValidator(_one_or_many)
    ] = Field(default=(512, 1024), description="tokens at which training texts are cut")
    batch_size: Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_one_or_many)] = (
        Field(
            default=(4, 8, 16, 32),
            description="sequences an optimizer step; micro-batches are planned",
        )
    )
    learning_rate: Annotated[LearningRateRange, BeforeValidator(_learning_rate_space)] = (
        LearningRateRange(min=2e-5, max=1e-3)
    )

    @field_validator("optim", "lora_target", "lora_rank", "cutoff_len", "batch_size")
    @classmethod
    def _no_duplicates(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        return tuple(sorted(values)) if isinstance(values[0], int) else values

    @property
    def is_learning_rate_pinned(self) -> bool:
        return self.learning_rate.min == self.learning_rate.max

    def contains(self, hp: Hyperparameters) -> bool:
        """Whether this is a point of the space; alpha is derived, not searched."""
        low, high = self.learning_rate.min, self.learning_rate.max
        slack = 1e-9  # a float that went through a logarithm and JSON
        return (
            hp.optim in self.optim
            and hp.lora_target in self.lora_target
            and hp.lora_rank in self.lora_rank
            and hp.cutoff_len in self.cutoff_len
            and hp.batch_size in self.batch_size
            and low * (1 - slack) <= hp.learning_rate <= high * (1 + slack)
        )
