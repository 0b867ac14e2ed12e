"""The hyperparameters that a study searches only if it names them, as rows of the table.

A study without them trains with their default, or with its `training` settings. The length scales
are guesses: the curves in bench/curves/tables vary none of these hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vram_search.spec.dimension import Coordinate, Dimension, Frame
from vram_search.spec.limits import (
    MAX_DROPOUT,
    MAX_LORAPLUS_RATIO,
    MAX_NEFTUNE_ALPHA,
    MOST_EPOCHS,
)

if TYPE_CHECKING:
    from vram_search.spec.point import Hyperparameters

SCHEDULE_POSITIONS = {"cosine": 0.0, "linear": 0.3, "constant_with_warmup": 1.0, "constant": 1.3}
"""Positions of the schedules in the surrogate's space. A guess: the tables hold cosine alone."""
INITIAL_POSITIONS = {"default": 0.0, "pissa": 1.0, "olora": 1.3}
"""Positions of an adapter's initial weights in the surrogate's space. A guess: the tables hold
peft's default alone."""
GUESSED_FLAG = 1.5
"""Length scale of a setting that is on or off. A guess: the tables do not vary it."""


def _is_adamw(values: Mapping[str, Any]) -> bool:
    return "adamw" in values["optim"]


def _has_no_dora(values: Mapping[str, Any]) -> bool:
    """True for points without DoRA, whose magnitudes are those of the unchanged weights."""
    return not values["use_dora"]


def _has_warmup(values: Mapping[str, Any]) -> bool:
    """False for points whose schedule has no warm-up."""
    return bool(values["lr_scheduler_type"] != "constant")


def _setting(name: str, default: Any, position: Callable[[Any], float]) -> Callable[..., float]:
    """Returns the coordinate of a hyperparameter that `training` sets where a point does not."""

    def coordinate(point: Hyperparameters, frame: Frame) -> float:
        value = getattr(point, name)
        return position(default if value is None else value)

    return coordinate


FURTHER = (
    Dimension(
        name="lora_dropout",
        kind="float",
        group="adapter",
        heading="dropout",
        short="drop",
        words="dropout {}",
        meaning="share of the adapter's inputs that is zeroed, 0 to below 1",
        changes_bytes=True,
        # A guess: a tenth weighs as much as the optimizer states' bits. The tables do not vary it.
        coordinates=(Coordinate(0.3, lambda point, frame: point.lora_dropout),),
        form="{:g}",
        most=MAX_DROPOUT,
        default=0.0,
        always_exported=True,
    ),
    Dimension(
        name="use_rslora",
        kind="flag",
        group="adapter",
        heading="rsLoRA",
        short="rs",
        words="rsLoRA {}",
        meaning="true or false: alpha is divided by the root of the rank",
        changes_bytes=False,
        # The adapter is scaled by alpha / sqrt(r) in place of alpha / r: as lora_alpha's doublings.
        coordinates=(
            Coordinate(2.0, lambda point, frame: point.use_rslora * math.log2(point.lora_rank) / 2),
        ),
        default=False,
        keys={"axolotl": "peft_use_rslora"},
    ),
    Dimension(
        name="use_dora",
        kind="flag",
        group="adapter",
        heading="DoRA",
        short="dora",
        words="DoRA {}",
        meaning="true or false: magnitudes are trained apart from directions",
        changes_bytes=True,
        coordinates=(Coordinate(GUESSED_FLAG, lambda point, frame: float(point.use_dora)),),
        default=False,
        keys={"axolotl": "peft_use_dora"},
    ),
    Dimension(
        name="init_lora_weights",
        kind="categorical",
        group="adapter",
        heading="init",
        short="init",
        words="{} init",
        meaning="default, pissa or olora: the adapter's initial weights",
        changes_bytes=True,
        coordinates=(
            Coordinate(
                GUESSED_FLAG, lambda point, frame: INITIAL_POSITIONS[point.init_lora_weights]
            ),
        ),
        default="default",
        needs=_has_no_dora,
        needs_words="use_dora: false",
        keys={"axolotl": "peft_init_lora_weights"},
    ),
    Dimension(
        name="loraplus_lr_ratio",
        kind="log",
        group="training",
        heading="LoRA+ ratio",
        short="lr+",
        words="LoRA+ {}",
        meaning="learning rate of matrix B over that of A; 1 is plain LoRA",
        changes_bytes=False,
        coordinates=(Coordinate(4.0, lambda point, frame: math.log2(point.loraplus_lr_ratio)),),
        form="{:g}",
        most=MAX_LORAPLUS_RATIO,
        default=1.0,
        needs=_is_adamw,
        needs_words="an AdamW optimizer",
    ),
    Dimension(
        name="neftune_noise_alpha",
        kind="float",
        group="training",
        heading="NEFTune alpha",
        short="neft",
        words="NEFTune {}",
        meaning="noise on the embeddings in training; 0 is none",
        changes_bytes=False,
        coordinates=(Coordinate(10.0, lambda point, frame: point.neftune_noise_alpha),),
        form="{:g}",
        most=MAX_NEFTUNE_ALPHA,
        default=0.0,
    ),
    Dimension(
        name="packing",
        kind="flag",
        group="training",
        heading="packing",
        short="pack",
        words="packing {}",
        meaning="true or false: rows are joined to sequences of up to cutoff_len tokens",
        changes_bytes=True,
        coordinates=(Coordinate(GUESSED_FLAG, lambda point, frame: float(point.packing)),),
        default=False,
        keys={"axolotl": "sample_packing"},
    ),
    Dimension(
        name="weight_decay",
        kind="float",
        group="training",
        heading="weight decay",
        short="wd",
        words="weight decay {}",
        meaning="AdamW's decoupled weight decay",
        changes_bytes=False,
        coordinates=(Coordinate(0.3, _setting("weight_decay", 0.0, float)),),
        form="{:g}",
        most=1.0,
        is_setting=True,
    ),
    Dimension(
        name="lr_scheduler_type",
        kind="categorical",
        group="training",
        heading="schedule",
        short="sched",
        words="{}",
        meaning="cosine, linear, constant or constant_with_warmup",
        changes_bytes=False,
        coordinates=(
            Coordinate(
                1.5, _setting("lr_scheduler_type", "cosine", SCHEDULE_POSITIONS.__getitem__)
            ),
        ),
        is_setting=True,
        keys={"axolotl": "lr_scheduler"},
    ),
    Dimension(
        name="warmup_ratio",
        kind="float",
        group="training",
        heading="warm-up",
        short="warm",
        words="warm-up {}",
        meaning="share of the steps with a rising learning rate",
        changes_bytes=False,
        coordinates=(Coordinate(0.3, _setting("warmup_ratio", 0.1, float)),),
        form="{:g}",
        most=0.99,
        is_setting=True,
        needs=_has_warmup,
        needs_words="a schedule with a warm-up",
        none_value=0.0,
    ),
    Dimension(
        name="num_train_epochs",
        kind="log",
        group="training",
        heading="epochs",
        short="ep",
        words="{} epochs",
        meaning="passes over the training rows",
        changes_bytes=False,
        coordinates=(Coordinate(1.5, _setting("num_train_epochs", 3.0, math.log2)),),
        form="{:g}",
        most=MOST_EPOCHS,
        is_setting=True,
        keys={"axolotl": "num_epochs"},
    ),
    Dimension(
        name="seed",
        kind="ordered",
        group="training",
        heading="seed",
        short="seed",
        words="seed {}",
        meaning="seed of adapter and row order",
        changes_bytes=False,
        coordinates=(),  # a repetition: what it changes is noise
        is_setting=True,
    ),
    Dimension(
        name="model",
        kind="categorical",
        group="base",
        heading="model",
        short="model",
        words="{}",
        meaning="short name of the base model, of a study that lists several",
        changes_bytes=True,
        # Two doublings of the parameters weigh as much as the share of the trained modules. How far
        # models differ besides is learnt (`search.gp.features`).
        coordinates=(Coordinate(2.0, lambda point, frame: frame.model_of(point).log_size),),
        is_setting=True,
    ),
)
"""The rows, in the order of records."""
