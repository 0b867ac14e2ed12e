"""The table of hyperparameters, over which search, report, import and export loop.

A new hyperparameter is a row here or in `spec.further_dimensions`, a field in `spec.point` and in
`spec.search_space`, and its effect on training and bytes. This module does not load pydantic:
questions about a study are answered fast.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from vram_search.spec.dimension import Coordinate as Coordinate
from vram_search.spec.dimension import Dimension as Dimension
from vram_search.spec.dimension import Frame as Frame
from vram_search.spec.dimension import Kind as Kind
from vram_search.spec.dimension import ModelPlace as ModelPlace
from vram_search.spec.dimension import Ratio as Ratio
from vram_search.spec.further_dimensions import FURTHER
from vram_search.spec.lora_targets import LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from vram_search.spec.point import Hyperparameters

MODULES = 7
"""Linear layers of a transformer block: q, k, v, o, gate, up, down."""

DEFAULT_ALPHA = Ratio(2)
"""lora_alpha of a study that does not set it."""


def _module_share(target: str) -> float:
    """Maps a LoRA target to a number: 0 for two trained modules, 1 for all of them."""
    if target == "all":
        return 1.0
    modules = LORA_TARGET_SETS.get(target) or target.split(",")
    return min(1.0, max(0.0, (len(modules) - 2) / (MODULES - 2)))


OTHER_RULES = {"adafactor": 1.0, "rmsprop": 2.0, "adagrad": 3.0, "sgd": 5.0}
"""Update rules in the order of their usual learning rates; Adam and Lion are at 0."""

DIMENSIONS = (
    Dimension(
        name="optim",
        kind="categorical",
        group="training",
        heading="optim",
        short="optim",
        words="{}",
        meaning="transformers' name, e.g. adamw_8bit",
        changes_bytes=True,
        coordinates=(
            Coordinate(1.0, lambda point, frame: float(OPTIMIZERS[point.optim].is_lion)),
            Coordinate(3.0, lambda point, frame: float(OPTIMIZERS[point.optim].eight_bit)),
            Coordinate(1.0, lambda point, frame: OTHER_RULES.get(OPTIMIZERS[point.optim].rule, 0)),
        ),
        column=5,
        keys={"axolotl": "optimizer"},
    ),
    Dimension(
        name="lora_target",
        kind="categorical",
        group="adapter",
        heading="target",
        short="target",
        words="{}",
        meaning="qv, qkvo, qkvo_gu, all, or module names with commas",
        changes_bytes=True,
        coordinates=(Coordinate(1.2, lambda point, frame: _module_share(point.lora_target)),),
        column=2,
        keys={
            "axolotl": "lora_target_modules",
            "trl": "lora_target_modules",
            "peft": "target_modules",
        },
    ),
    Dimension(
        name="lora_rank",
        kind="ordered",
        group="adapter",
        heading="rank",
        short="r",
        words="r{}",
        meaning="whole number",
        changes_bytes=True,
        coordinates=(Coordinate(2.0, lambda point, frame: math.log2(point.lora_rank / 16) / 2),),
        column=1,
        keys={"axolotl": "lora_r", "trl": "lora_r", "peft": "r"},
    ),
    Dimension(
        name="lora_alpha",
        kind="ordered",
        group="adapter",
        heading="alpha",
        short="a",
        words="a{}",
        meaning="whole number",
        changes_bytes=False,
        # The scale of the learning rate: 0.6 decades are 2 doublings. The tables hold one ratio.
        coordinates=(
            Coordinate(2.0, lambda point, frame: math.log2(point.lora_alpha / point.lora_rank)),
        ),
        default=DEFAULT_ALPHA,
        follows="lora_rank",
    ),
    Dimension(
        name="cutoff_len",
        kind="ordered",
        group="training",
        heading="cutoff",
        short="cut",
        words="cutoff {}",
        meaning="tokens",
        changes_bytes=True,
        coordinates=(
            Coordinate(
                1.5, lambda point, frame: math.log2(point.cutoff_len / frame.longest_cutoff) / 2
            ),
        ),
        column=3,
        keys={"axolotl": "sequence_len", "trl": "max_length"},
    ),
    Dimension(
        name="batch_size",
        kind="ordered",
        group="training",
        heading="batch",
        short="bs",
        words="batch {}",
        meaning="rows per step, if micro-batch and accumulation are unknown",
        changes_bytes=True,
        coordinates=(Coordinate(1.8, lambda point, frame: math.log2(point.batch_size / 8)),),
        column=4,
    ),
    Dimension(
        name="learning_rate",
        kind="log",
        group="training",
        heading="lr",
        short="lr",
        words="lr {}",
        meaning="peak of the schedule",
        changes_bytes=False,
        coordinates=(
            Coordinate(
                0.6,
                lambda point, frame: math.log10(
                    point.learning_rate * frame.model_of(point).learning_rate_factor / 2e-4
                ),
            ),
        ),
        column=0,
        form="{:.1e}",
    ),
    *FURTHER,
)
"""All hyperparameters, in the order of records. The scales come from the curves in
bench/curves/tables: the learning rate matters most, the bits of an optimizer state least."""

BY_NAME = {dimension.name: dimension for dimension in DIMENSIONS}
OPTIONAL = tuple(dimension for dimension in DIMENSIONS if dimension.is_optional)
MAIN = tuple(sorted((d for d in DIMENSIONS if d.column is not None), key=lambda d: d.column or 0))
"""The hyperparameters that every table of trials shows and every surrogate uses, by column."""
SETTINGS = tuple(dimension for dimension in DIMENSIONS if dimension.is_setting)
"""The hyperparameters that a study sets once if it does not search them."""
OTHERS = tuple(dimension for dimension in DIMENSIONS if dimension.column is None)
"""The hyperparameters that a table shows only if trials differ in them, and that a surrogate uses
only if they are searched."""
_LEADERS = {dimension.follows for dimension in DIMENSIONS}
LEADERS_FIRST = tuple(sorted(DIMENSIONS, key=lambda dimension: dimension.name not in _LEADERS))
"""All hyperparameters, with those that others follow first."""


def adapter_settings(point: Hyperparameters) -> dict[str, Any]:
    """Returns the settings of a point's LoRA adapter that a configuration must name.

    These are all required settings except the layers, and optional settings that differ from their
    default.
    """
    settings: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        value = getattr(point, dimension.name)
        is_needed = dimension.always_exported or value != dimension.default
        if dimension.group == "adapter" and dimension.name != "lora_target" and is_needed:
            settings[dimension.name] = value
    return settings
