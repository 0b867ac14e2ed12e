"""One point of the search: the values of all hyperparameters, validated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from vram_search.spec.base import Count, Flag, Number, PositiveFloat, Spec
from vram_search.spec.hyperparameters import OPTIONAL
from vram_search.spec.limits import (
    MAX_ALPHA_RATIO,
    MAX_CUTOFF_LEN,
    MAX_DROPOUT,
    MAX_LORAPLUS_RATIO,
    MAX_NEFTUNE_ALPHA,
    MAX_RANK,
    MOST_EPOCHS,
)
from vram_search.spec.lora_targets import parse_lora_target
from vram_search.spec.optimizers import OPTIMIZERS, optimizer_fault


def _parse_optim(value: object) -> object:
    if isinstance(value, str) and value not in OPTIMIZERS:
        raise ValueError(optimizer_fault(value))
    return value


Optim = Annotated[str, Field(strict=True), BeforeValidator(_parse_optim)]
LoraTarget = Annotated[str, BeforeValidator(parse_lora_target)]
Rank = Annotated[int, Field(strict=True, ge=1, le=MAX_RANK)]
CutoffLen = Annotated[int, Field(strict=True, ge=16, le=MAX_CUTOFF_LEN)]
LearningRate = Annotated[Number, Field(gt=0, le=1)]
AlphaRatio = Annotated[Count, Field(le=MAX_ALPHA_RATIO)]
Dropout = Annotated[Number, Field(ge=0, le=MAX_DROPOUT)]
Alpha = Annotated[Count, Field(le=MAX_ALPHA_RATIO * MAX_RANK)]
LoraPlusRatio = Annotated[Number, Field(ge=1, le=MAX_LORAPLUS_RATIO)]
NoiseAlpha = Annotated[Number, Field(ge=0, le=MAX_NEFTUNE_ALPHA)]
InitLoraWeights = Literal["default", "pissa", "olora"]
WeightDecay = Annotated[Number, Field(ge=0, le=1)]
Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
WarmupRatio = Annotated[Number, Field(ge=0, lt=1)]
Epochs = Annotated[PositiveFloat, Field(le=MOST_EPOCHS)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class Hyperparameters(Spec):
    """The hyperparameters of one trial, named as in LLaMA-Factory and transformers.

    None stands for the study's own setting (`StudySpec.training_of`).
    """

    optim: Optim
    lora_target: LoraTarget
    lora_rank: Rank
    lora_alpha: Count
    cutoff_len: CutoffLen
    batch_size: Count = Field(description="effective: sequences per optimizer step")
    learning_rate: LearningRate
    lora_dropout: Dropout = 0.0
    use_rslora: Flag = False
    use_dora: Flag = False
    init_lora_weights: InitLoraWeights = "default"
    loraplus_lr_ratio: LoraPlusRatio = 1.0
    neftune_noise_alpha: NoiseAlpha = 0.0
    packing: Flag = False
    weight_decay: WeightDecay | None = None
    lr_scheduler_type: Scheduler | None = None
    warmup_ratio: WarmupRatio | None = None
    num_train_epochs: Epochs | None = None
    seed: Seed | None = None
    model: Annotated[str, Field(strict=True)] | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out optional hyperparameters at their default, as records did before these
        hyperparameters existed."""
        dumped: dict[str, Any] = dump(self)
        for dimension in OPTIONAL:
            if dumped.get(dimension.name) == dimension.default:
                dumped.pop(dimension.name, None)
        return dumped
