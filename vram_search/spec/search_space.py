"""SearchSpace: the values that a study searches, and the points that they form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from vram_search.spec.base import Count, Spec
from vram_search.spec.hyperparameters import BY_NAME, DIMENSIONS, LEADERS_FIRST, Dimension, Ratio
from vram_search.spec.point import CutoffLen, Hyperparameters, LoraTarget, Optim, Rank
from vram_search.spec.space_parts import (
    AlphaRatios,
    AlphaSpace,
    DropoutSpace,
    EpochSpace,
    FlagSpace,
    InitSpace,
    LearningRateRange,
    LearningRateSpace,
    LoraPlusSpace,
    NoiseSpace,
    NumberRange,
    SchedulerSpace,
    SeedSpace,
    WarmupSpace,
    WeightDecaySpace,
    alphas,
    distinct,
    distinct_targets,
    doubled,
    learning_rates,
    list_of_targets,
    list_unless_mapping,
    list_unless_none,
    one_or_many,
)


class NotInSpaceError(ValueError):
    """A value is not among those that a space searches."""

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        super().__init__(f"{name} {value!r} is not in the search space (allowed: {allowed})")
        self.name, self.value, self.allowed = name, value, allowed


class SearchSpace(Spec):
    """The values to search, by hyperparameter. A single value pins the hyperparameter."""

    optim: Annotated[tuple[Optim, ...], Field(min_length=1), BeforeValidator(one_or_many)] = Field(
        default=("adamw_torch_fused", "adamw_8bit"),
        description="optimizers, as transformers names them",
    )
    lora_target: Annotated[
        tuple[LoraTarget, ...], Field(min_length=1), BeforeValidator(list_of_targets)
    ] = Field(
        default=("qv", "qkvo", "qkvo_gu", "all"), description="layers that get an adapter, by set"
    )
    lora_rank: Annotated[tuple[Rank, ...], Field(min_length=1), doubled(Rank)] = Field(
        default=(4, 8, 16, 32, 64),
        description="of the adapter's matrices; `{min: 8, max: 64}` is doubled: 8, 16, 32, 64",
    )
    cutoff_len: Annotated[tuple[CutoffLen, ...], Field(min_length=1), doubled(CutoffLen)] = Field(
        default=(512, 1024), description="tokens at which training texts are cut"
    )
    batch_size: Annotated[tuple[Count, ...], Field(min_length=1), doubled(Count)] = Field(
        default=(4, 8, 16, 32),
        description="sequences an optimizer step; micro-batches are planned",
    )
    learning_rate: Annotated[LearningRateSpace, BeforeValidator(learning_rates)] = Field(
        default=LearningRateRange(min=2e-5, max=1e-3),
        description="a range, searched on a logarithmic scale; or a list, or one number",
    )

    lora_alpha: Annotated[AlphaSpace | None, BeforeValidator(alphas)] = Field(
        default=None,
        description="fixed values, or multiples of the rank `{ratio: [1, 2]}`; "
        "default: training.lora_alpha_ratio x lora_rank",
    )

    lora_dropout: Annotated[DropoutSpace | None, BeforeValidator(list_unless_mapping)] = Field(
        default=None,
        description="share of the adapter's inputs that is zeroed in training: values, or a range "
        "`{min: 0, max: 0.1}`; default: 0",
    )

    use_rslora: Annotated[FlagSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="scale the adapter by alpha / sqrt(rank) in place of alpha / rank: "
        "`[true, false]`; default: false",
    )
    use_dora: Annotated[FlagSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="train magnitudes apart from directions (DoRA): `[true, false]`; slower and "
        "larger; default: false",
    )
    init_lora_weights: Annotated[InitSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="initial weights of the adapter: `[default, pissa, olora]`; the last two come "
        "from the base's weights, and without use_dora only; default: peft's (A random, B zero)",
    )
    loraplus_lr_ratio: Annotated[LoraPlusSpace | None, BeforeValidator(list_unless_mapping)] = (
        Field(
            default=None,
            description="learning rate of matrix B over that of A (LoRA+), with AdamW only: "
            "values, or a range `{min: 1, max: 32}`; default: 1",
        )
    )
    neftune_noise_alpha: Annotated[NoiseSpace | None, BeforeValidator(list_unless_mapping)] = Field(
        default=None,
        description="noise on the embeddings in training (NEFTune): values or a range; "
        "default: 0, no noise",
    )
    packing: Annotated[FlagSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="join rows to sequences of up to cutoff_len tokens; each row sees itself "
        "alone, and batch_size counts sequences, so that an epoch has fewer steps: "
        "`[true, false]`; default: false",
    )
    weight_decay: Annotated[WeightDecaySpace | None, BeforeValidator(list_unless_mapping)] = Field(
        default=None,
        description="values, or a range `{min: 0, max: 0.1}`; default: training.weight_decay",
    )
    lr_scheduler_type: Annotated[SchedulerSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None, description="schedules; default: training.lr_scheduler_type"
    )
    warmup_ratio: Annotated[WarmupSpace | None, BeforeValidator(list_unless_mapping)] = Field(
        default=None,
        description="values, or a range `{min: 0, max: 0.1}`; 0 with the schedule constant; "
        "default: training.warmup_ratio",
    )
    num_train_epochs: Annotated[EpochSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="lengths of a trial: `[1, 2, 4]`; rungs then count the steps of the longest; "
        "default: training.num_train_epochs",
    )
    seed: Annotated[SeedSpace | None, BeforeValidator(list_unless_none)] = Field(
        default=None,
        description="seeds of adapter and row order, to repeat points: `[1, 2, 3]`; "
        "default: the study's seed",
    )

    _settings: dict[str, Any] = PrivateAttr(default_factory=dict)
    _models: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("*")
    @classmethod
    def _no_duplicates(cls, values: Any) -> Any:
        return distinct(values) if isinstance(values, tuple) else values

    @field_validator("lora_target")
    @classmethod
    def _no_equal_targets(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return distinct_targets(values)

    @property
    def model(self) -> tuple[str, ...] | None:
        """Short names of the base models to choose from; None if the study has one."""
        return self._models or None

    def options(self, dimension: Dimension) -> tuple[Any, ...] | NumberRange:
        """Returns the values, ratios or range to search for a hyperparameter.

        A hyperparameter that is pinned or not searched has a single value.
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
        """Formats the searched values of a hyperparameter: "8, 16", "2.0e-5 to 1.0e-3"."""
        options = self.options(dimension)
        if options == (None,):
            return dimension.shown(self._settings.get(dimension.name))
        if isinstance(options, NumberRange):
            return f"{dimension.shown(options.min)} to {dimension.shown(options.max)}"
        if isinstance(options[0], Ratio):
            times = ", ".join(str(option.times) for option in options)
            return f"{times} x {dimension.follows}"
        return ", ".join(map(dimension.shown, options))

    def point(self, chosen: Mapping[str, Any]) -> Hyperparameters:
        """Builds the point with the chosen options; other hyperparameters take their first one."""
        values: dict[str, Any] = {}
        for dimension in LEADERS_FIRST:
            options = self.options(dimension)
            first = options.min if isinstance(options, NumberRange) else options[0]
            option = chosen.get(dimension.name, first)
            values[dimension.name] = _value(option, dimension, values)
        return Hyperparameters(**values)

    def with_settings(self, settings: Mapping[str, Any]) -> SearchSpace:
        """Returns the space with the study's own settings, which points hold as None."""
        space = self.model_copy()
        space._settings = dict(settings)
        return space

    def with_models(self, names: tuple[str, ...]) -> SearchSpace:
        """Returns the space in which the base model is searched, too.

        Args:
            names: short names of the models; none if the study has one model.
        """
        space = self.model_copy()
        space._models = names
        return space

    def length_share(self, point: Hyperparameters) -> float:
        """Returns the length of a point's training as a share of the longest one's."""
        if self.num_train_epochs is None or point.num_train_epochs is None:
            return 1.0
        return point.num_train_epochs / max(self.num_train_epochs)

    def option_of(self, point: Hyperparameters, dimension: Dimension) -> Any:
        """Returns the option of a hyperparameter that a point uses.

        Raises:
            ValueError: the point's value is not among the options.
        """
        options, value = self.options(dimension), getattr(point, dimension.name)
        setting = self._settings.get(dimension.name)
        if options == (None,) and value in (None, setting):
            return None
        value = setting if value is None else value
        if value == dimension.idle and not dimension.applies(vars(point)):
            return options.min if isinstance(options, NumberRange) else options[0]
        slack = 1e-9  # a float that went through a logarithm and JSON
        if value is None:
            pass  # a setting that is not known
        elif isinstance(options, NumberRange):
            if options.min * (1 - slack) <= value <= options.max * (1 + slack):
                return min(max(value, options.min), options.max)
        else:
            known = vars(point)
            for option in options:
                own = _resolved(option, dimension, known)
                if own == value or (
                    isinstance(own, float) and math.isclose(own, value, rel_tol=slack)
                ):
                    return option
        raise ValueError(f"{dimension.name} {value} is not in the search space")

    def contains(self, point: Hyperparameters) -> bool:
        """True if the point is in the space."""
        try:
            for dimension in DIMENSIONS:
                self.option_of(point, dimension)
        except ValueError:
            return False
        return True

    def nearest(self, wanted: Mapping[str, Any]) -> Hyperparameters:
        """Finds the point with the options that are nearest to the wanted values.

        If a wanted name is not searched, the last name is taken. A hyperparameter without a wanted
        value takes the option nearest to its default, or its first option if it has no default.
        """
        chosen: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for dimension in LEADERS_FIRST:
            goal = wanted.get(dimension.name, dimension.default)
            goal = self._settings.get(dimension.name) if goal is None else goal
            options = self.options(dimension)
            if goal is not None:
                chosen[dimension.name] = _nearest(options, goal, dimension, values)
            option = chosen.get(dimension.name)
            if option is None:
                option = options.min if isinstance(options, NumberRange) else options[0]
            values[dimension.name] = _value(option, dimension, values)
        return self.point(chosen)

    def exact(
        self, wanted: Mapping[str, Any], like: Mapping[str, Any] = MappingProxyType({})
    ) -> Hyperparameters:
        """Returns the point with the wanted values.

        Args:
            wanted: values by hyperparameter, as a file holds them: YAML 1.1 takes 2e-4 for a text.
            like: values of the others; those that are missing here too are the nearest to their
                default.

        Raises:
            NotInSpaceError: a wanted value is not searched.
        """
        values = {name: _typed(value, BY_NAME[name]) for name, value in wanted.items()}
        known = {name: value for name, value in values.items() if value is not None}
        point = self.nearest({**like, **known})
        for name, value in values.items():
            if not same_value(getattr(point, name), value):
                raise NotInSpaceError(name, wanted[name], self._allowed_at(point, BY_NAME[name]))
        return point

    def _allowed_at(self, point: Hyperparameters, dimension: Dimension) -> str:
        if dimension.group == "base" and self.model is None:
            return "none: the study has one base model"
        if dimension.applies(vars(point)):
            return self.words(dimension)
        return f"{dimension.shown(dimension.idle)}, because it needs {dimension.needs_words}"


def _typed(value: Any, dimension: Dimension) -> Any:
    """A value out of a file as one of the hyperparameter's type; None if it is of another type."""
    if dimension.is_name:
        return tuple(value) if isinstance(value, list) else value
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    return number if is_number and math.isfinite(number) else None


def same_value(own: Any, value: Any) -> bool:
    """True if two values of a hyperparameter are the same; a record holds lists, not tuples."""
    if isinstance(own, tuple | list):
        return isinstance(value, tuple | list) and list(own) == list(value)
    if isinstance(own, float) and isinstance(value, int | float):
        return math.isclose(own, value, rel_tol=1e-9)
    return bool(own == value)


def _value(option: Any, dimension: Dimension, known: Mapping[str, Any]) -> Any:
    return _resolved(option, dimension, known) if dimension.applies(known) else dimension.idle


def _resolved(option: Any, dimension: Dimension, known: Mapping[str, Any]) -> Any:
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
    if dimension.is_name or None in options:
        return goal if goal in options else options[-1]
    numbers = {option: _value(option, dimension, known) for option in options}
    if dimension.kind == "float" or min(goal, *numbers.values()) <= 0:
        return min(options, key=lambda option: abs(numbers[option] - goal))
    return min(options, key=lambda option: abs(math.log(numbers[option] / goal)))
