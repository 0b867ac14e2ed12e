"""The forms in which a study file writes the parts of its search space: lists, ranges, ratios."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from vram_search.spec.base import Flag, Number, Spec, plain_message
from vram_search.spec.lora_targets import LORA_TARGET_SETS, is_expression, is_module_name
from vram_search.spec.point import (
    Alpha,
    AlphaRatio,
    Dropout,
    Epochs,
    InitLoraWeights,
    LearningRate,
    LoraPlusRatio,
    NoiseAlpha,
    Scheduler,
    Seed,
    WarmupRatio,
    WeightDecay,
)

RANGE_IS_EMPTY = "min is above max: the range is empty"


class NumberRange(Spec):
    """All numbers from `min` to `max`."""

    min: Number
    max: Number

    @model_validator(mode="after")
    def _ordered(self) -> NumberRange:
        if self.min > self.max:
            raise ValueError(RANGE_IS_EMPTY)
        return self


class LearningRateRange(NumberRange):
    """Learning rates from `min` to `max`, searched on a logarithmic scale."""

    min: LearningRate = Field(description="lowest that is tried")
    max: LearningRate = Field(description="highest that is tried")


class DropoutRange(NumberRange):
    """Dropout from `min` to `max`: `{min: 0, max: 0.1}`."""

    min: Dropout
    max: Dropout


class LoraPlusRange(NumberRange):
    """Ratios of learning rates, searched on a logarithmic scale."""

    min: LoraPlusRatio
    max: LoraPlusRatio


class NoiseRange(NumberRange):
    """NEFTune's alpha from `min` to `max`."""

    min: NoiseAlpha
    max: NoiseAlpha


class WeightDecayRange(NumberRange):
    """Weight decay from `min` to `max`."""

    min: WeightDecay
    max: WeightDecay


class WarmupRange(NumberRange):
    """Warm-up ratios from `min` to `max`."""

    min: WarmupRatio
    max: WarmupRatio


def one_or_many(value: object) -> object:
    """A pinned value becomes a list of one.

    Raises:
        ValueError: it is a mapping.
    """
    if isinstance(value, dict):
        raise ValueError("is a mapping: write one value, or a list of values")
    return value if isinstance(value, (list, tuple)) else [value]


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns numbers in ascending order, and names in the order in which they are written.

    Raises:
        ValueError: a value is listed twice.
    """
    if len(set(values)) != len(values):
        raise ValueError("a value is listed twice")
    return tuple(sorted(values)) if isinstance(values[0], int | float) else values


def distinct_targets(values: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the LoRA targets as they are.

    Raises:
        ValueError: two of them name the same modules, in another order or by a set's name.
    """
    known: dict[frozenset[str], str] = {}
    for target in values:
        names = (target,) if is_expression(target) else target.split(",")
        modules = frozenset(LORA_TARGET_SETS.get(target, names))
        if modules in known:
            raise ValueError(f"a value is listed twice: {known[modules]} and {target} are the same")
        known[modules] = target
    return values


class AlphaRatios(Spec):
    """Multiples of the rank: `{ratio: [1, 2]}`."""

    ratio: Annotated[tuple[AlphaRatio, ...], Field(min_length=1), BeforeValidator(one_or_many)] = (
        Field(description="lora_alpha = ratio x lora_rank")
    )

    @field_validator("ratio")
    @classmethod
    def _no_duplicates(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return distinct(values)


def _form(value: object) -> str:
    """Returns the tag of a part's form. Tags are not keys; `spec.load` drops them from messages."""
    return "<mapping>" if isinstance(value, (dict, Spec)) else "<list>"


def list_unless_mapping(value: object) -> object:
    """A mapping such as `{ratio: 2}` stays; a pinned value becomes a list of one."""
    return value if isinstance(value, (dict, Spec)) or value is None else one_or_many(value)


def alphas(value: object) -> object:
    """As `list_unless_mapping`.

    Raises:
        ValueError: it is a range, which alpha does not have.
    """
    if isinstance(value, dict) and not {"min", "max"}.isdisjoint(value):
        raise ValueError(
            "is a range, and alpha has none: write values as [16, 32], or multiples of the rank as "
            "{ratio: [1, 2]}"
        )
    return list_unless_mapping(value)


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
LearningRateSpace = Annotated[
    Annotated[LearningRateRange, Tag("<mapping>")]
    | Annotated[tuple[LearningRate, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]
LoraPlusSpace = Annotated[
    Annotated[LoraPlusRange, Tag("<mapping>")]
    | Annotated[tuple[LoraPlusRatio, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]
NoiseSpace = Annotated[
    Annotated[NoiseRange, Tag("<mapping>")]
    | Annotated[tuple[NoiseAlpha, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]
WeightDecaySpace = Annotated[
    Annotated[WeightDecayRange, Tag("<mapping>")]
    | Annotated[tuple[WeightDecay, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]
WarmupSpace = Annotated[
    Annotated[WarmupRange, Tag("<mapping>")]
    | Annotated[tuple[WarmupRatio, ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_form),
]
FlagSpace = Annotated[tuple[Flag, ...], Field(min_length=1)]
InitSpace = Annotated[tuple[InitLoraWeights, ...], Field(min_length=1)]
SchedulerSpace = Annotated[tuple[Scheduler, ...], Field(min_length=1)]
EpochSpace = Annotated[tuple[Epochs, ...], Field(min_length=1)]
SeedSpace = Annotated[tuple[Seed, ...], Field(min_length=1)]


def list_unless_none(value: object) -> object:
    """A pinned value becomes a list of one; null stays."""
    return None if value is None else one_or_many(value)


def list_of_targets(value: object) -> object:
    """Refuses `[q_proj, v_proj]`: one choice of two modules, or two choices of one module each."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        loose = [v for v in value if v not in LORA_TARGET_SETS and is_module_name(v)]
        if len(loose) == len(value) and len(value) > 1:
            raise ValueError(
                "module names of one choice need brackets of their own: "
                f"[[{', '.join(loose)}]], or a comma list: ['{','.join(loose)}']"
            )
    return value if isinstance(value, (list, tuple)) else [value]


def learning_rates(value: object) -> object:
    """A single learning rate is a range without width; a list and a mapping stay."""
    if isinstance(value, (dict, Spec, list, tuple)):
        return value
    return {"min": value, "max": value}


def doubled(number: Any) -> BeforeValidator:
    """A range of whole numbers, `{min: 8, max: 64}`, becomes 8, 16, 32 and 64.

    Args:
        number: type of the numbers, with its limits.
    """
    limits: TypeAdapter[int] = TypeAdapter(number)

    def values_of(value: object) -> object:
        if not isinstance(value, dict):
            return one_or_many(value)
        low, high = value.get("min"), value.get("max")
        if not (type(low) is int and type(high) is int and low >= 1 and len(value) == 2):
            raise ValueError("write a list such as [8, 16, 32], or a range {min: 8, max: 64}")
        if low > high:
            raise ValueError(RANGE_IS_EMPTY)
        for name, end in (("min", low), ("max", high)):
            try:
                limits.validate_python(end)
            except ValidationError as error:
                message = plain_message(error.errors()[0])
                raise ValueError(f"{name} {end}: {message[0].lower()}{message[1:]}") from None
        values = [low * 2**doubling for doubling in range((high // low).bit_length())]
        return values if values[-1] == high else [*values, high]

    return BeforeValidator(values_of)
