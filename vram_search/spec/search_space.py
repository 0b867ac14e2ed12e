"""Hyperparameters: one point of the search; and SearchSpace: all points, as a study has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from vram_search.spec.base import Count, Number, Spec
from vram_search.spec.hyperparameters import (
    DIMENSIONS,
    LEADERS_FIRST,
    OPTIONAL,
    Dimension,
    Ratio,
)
from vram_search.spec.lora_targets import LORA_TARGET_SETS as LORA_TARGET_SETS
from vram_search.spec.optimizers import OPTIMIZERS

MAX_RANK = 1024
MAX_CUTOFF_LEN = 1_048_576
MAX_ALPHA_RATIO = 1024
MAX_DROPOUT = 0.99


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
AlphaRatio = Annotated[Count, Field(le=MAX_ALPHA_RATIO)]
Dropout = Annotated[Number, Field(ge=0, le=MAX_DROPOUT)]
Alpha = Annotated[Count, Field(le=MAX_ALPHA_RATIO * MAX_RANK)]


class Hyperparameters(Spec):
    """One point of the space; names as LLaMA-Factory and transformers spell them."""

    optim: Optim
    lora_target: LoraTarget
    lora_rank: Rank
    lora_alpha: Count
    cutoff_len: CutoffLen
    batch_size: Count = Field(description="effective: sequences per optimizer step")
    learning_rate: LearningRate
    lora_dropout: Dropout = 0.0

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An optional hyperparameter at its default is left out, as in records that are older
        than it."""
        dumped: dict[str, Any] = dump(self)
        for dimension in OPTIONAL:
            if dumped.get(dimension.name) == dimension.default:
                dumped.pop(dimension.name, None)
        return dumped


class NumberRange(Spec):
    """All numbers from `min` to `max`."""

    min: Number
    max: Number

    @model_validator(mode="after")
    def _ordered(self) -> NumberRange:
        if self.min > self.max:
            raise ValueError("min is above max: the range is empty")
        return self


class LearningRateRange(NumberRange):
    """Learning rates from `min` to `max`, searched on a logarithmic scale; or one number."""

    min: LearningRate = Field(description="lowest that is tried")
    max: LearningRate = Field(description="highest that is tried")


class DropoutRange(NumberRange):
    """Shares from `min` to `max`: `{min: 0, max: 0.1}`."""

    min: Dropout
    max: Dropout


def _one_or_many(value: object) -> object:
    """A pinned value is a space of one."""
    return value if isinstance(value, (list, tuple)) else [value]


class AlphaRatios(Spec):
    """Multiples of the rank: `{ratio: [1, 2]}`."""

    ratio: Annotated[tuple[AlphaRatio, ...], Field(min_length=1), BeforeValidator(_one_or_many)] = (
        Field(description="lora_alpha = ratio x lora_rank")
    )

    @field_validator("ratio")
    @classmethod
    def _no_duplicates(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct(values)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers in ascending order, names in the order written.

    Raises:
        ValueError: one is there twice.
    """
    if len(set(values)) != len(values):
        raise ValueError("a value is listed twice")
    return tuple(sorted(values)) if isinstance(values[0], int | float) else values


def _form(value: object) -> str:
    """Tells the two forms of a part of a space apart (the tags are no keys: `load` drops them)."""
    return "<mapping>" if isinstance(value, (dict, Spec)) else "<list>"


def _list_unless_mapping(value: object) -> object:
    return value if isinstance(value, (dict, Spec)) or value is None else _one_or_many(value)


AlphaSpace = Annotated[
    Annotated[AlphaRatios, Tag("<mapping>")]
    | Annotated[tuple[Alpha, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]


DropoutSpace = Annotated[
    Annotated[DropoutRange, Tag("<mapping>")]
    | Annotated[tuple[Dropout, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]


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

    lora_alpha: Annotated[AlphaSpace | None, BeforeValidator(_list_unless_mapping)] = Field(
        default=None,
        description="fixed values, or multiples of the rank `{ratio: [1, 2]}`; "
        "default: training.lora_alpha_ratio x lora_rank",
    )

    lora_dropout: Annotated[DropoutSpace | None, BeforeValidator(_list_unless_mapping)] = Field(
        default=None,
        description="share of the adapter's inputs that is zeroed in training: values, or a range "
        "`{min: 0, max: 0.1}`; default: 0",
    )

    @field_validator("*")
    @classmethod
    def _no_duplicates(cls, values: Any) -> Any:
        return _distinct(values) if isinstance(values, tuple) else values

    def options(self, dimension: Dimension) -> tuple[Any, ...] | NumberRange:
        """Returns the values (or ratios) or the range that is searched of a hyperparameter.

        It is a single value if the hyperparameter is pinned or not searched.
        """
        part = getattr(self, dimension.name)
        if part is None:
            return (dimension.default,)
        if isinstance(part, AlphaRatios):
            return tuple(Ratio(times) for times in part.ratio)
        if isinstance(part, NumberRange) and part.min == part.max:
            return (part.min,)
        assert isinstance(part, (tuple, NumberRange))
        return part

    def is_searched(self, dimension: Dimension) -> bool:
        options = self.options(dimension)
        return isinstance(options, NumberRange) or len(options) > 1

    def words(self, dimension: Dimension) -> str:
        """Names the searched values of a hyperparameter: "8, 16", "2.0e-05 to 1.0e-03"."""
        options = self.options(dimension)
        if isinstance(options, NumberRange):
            return f"{dimension.shown(options.min)} to {dimension.shown(options.max)}"
        if isinstance(options[0], Ratio):
            times = ", ".join(str(option.times) for option in options)
            return f"{times} x {dimension.follows}"
        return ", ".join(map(dimension.shown, options))

    def point(self, chosen: Mapping[str, Any]) -> Hyperparameters:
        """Builds the point with these options; a hyperparameter without one takes its first."""
        values: dict[str, Any] = {}
        for dimension in LEADERS_FIRST:
            options = self.options(dimension)
            first = options.min if isinstance(options, NumberRange) else options[0]
            option = chosen.get(dimension.name, first)
            values[dimension.name] = _value(option, dimension, values)
        return Hyperparameters(**values)

    def option_of(self, point: Hyperparameters, dimension: Dimension) -> Any:
        """Returns the option that a point has.

        Raises:
            ValueError: it has none of them.
        """
        options, value = self.options(dimension), getattr(point, dimension.name)
        slack = 1e-9  # a float that went through a logarithm and JSON
        if isinstance(options, NumberRange):
            if options.min * (1 - slack) <= value <= options.max * (1 + slack):
                return min(max(value, options.min), options.max)
        else:
            known = vars(point)
            for option in options:
                own = _value(option, dimension, known)
                if own == value or (
                    isinstance(own, float) and math.isclose(own, value, rel_tol=slack)
                ):
                    return option
        raise ValueError(f"{dimension.name} {value} is not in the search space")

    def contains(self, point: Hyperparameters) -> bool:
        """True if this is a point of the space."""
        try:
            for dimension in DIMENSIONS:
                self.option_of(point, dimension)
        except ValueError:
            return False
        return True

    def nearest(self, wanted: Mapping[str, Any]) -> Hyperparameters:
        """Finds the point whose options are nearest to the wanted values.

        A wanted name that is not searched becomes the last name. A hyperparameter without a wanted
        value takes the option nearest to its default, or its first option.
        """
        chosen: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for dimension in LEADERS_FIRST:
            goal = wanted.get(dimension.name, dimension.default)
            options = self.options(dimension)
            if goal is not None:
                chosen[dimension.name] = _nearest(options, goal, dimension, values)
            option = chosen.get(dimension.name)
            if option is None:
                option = options.min if isinstance(options, NumberRange) else options[0]
            values[dimension.name] = _value(option, dimension, values)
        return self.point(chosen)


def _value(option: Any, dimension: Dimension, known: Mapping[str, Any]) -> Any:
    if isinstance(option, Ratio):
        assert dimension.follows is not None
        return option.of(known[dimension.follows])
    return option


def _nearest(
    options: tuple[Any, ...] | NumberRange,
    goal: Any,
    dimension: Dimension,
    known: Mapping[str, Any],
) -> Any:
    goal = _value(goal, dimension, known)
    if isinstance(options, NumberRange):
        return min(max(goal, options.min), options.max)
    if dimension.kind == "categorical":
        return goal if goal in options else options[-1]
    if dimension.kind == "float":
        return min(options, key=lambda option: abs(option - goal))
    return min(options, key=lambda option: abs(math.log(_value(option, dimension, known) / goal)))
