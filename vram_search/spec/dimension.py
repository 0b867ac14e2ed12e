"""The description of a hyperparameter: its names, its kind and its place in the surrogate's space.

This module does not load pydantic: questions about a study are answered fast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vram_search.units import short_exponent

if TYPE_CHECKING:
    from vram_search.spec.point import Hyperparameters

Kind = Literal["categorical", "flag", "ordered", "log", "float"]
"""The kinds of values: a name, on or off, a whole number, a number on a logarithmic scale, and one
on a linear scale."""


@dataclass(frozen=True)
class Ratio:
    """A value as a multiple of the hyperparameter that it follows."""

    times: int

    def of(self, value: int) -> int:
        return self.times * value


@dataclass(frozen=True)
class ModelPlace:
    """The place of a base model in the surrogate's space.

    Attributes:
        log_size: binary logarithm of its parameters, relative to a medium model of the search.
        learning_rate_factor: converts its learning rates to those of the search's reference model.
    """

    log_size: float = 0.0
    learning_rate_factor: float = 1.0


@dataclass(frozen=True)
class Frame:
    """The reference for positions in the surrogate's space.

    Attributes:
        longest_cutoff: the largest cutoff_len of the search that a point belongs to.
        models: places of the base models by short name, of a search over several.
        usual: place of every other model.
    """

    longest_cutoff: int
    usual: ModelPlace = ModelPlace()
    models: Mapping[str, ModelPlace] = field(default_factory=dict)

    def model_of(self, point: Hyperparameters) -> ModelPlace:
        """Returns the place of a point's base model."""
        return self.models.get(point.model or "", self.usual)


@dataclass(frozen=True)
class Coordinate:
    """One coordinate of a hyperparameter in the surrogate's space.

    Attributes:
        scale: the usual length scale: the distance over which losses change. Earlier searches
            correct it (`search.gp.length_scales`).
        position: computes the coordinate; equal distances change losses by about equal amounts.
        is_learnt: True if the surrogate learns the length scale of such coordinates by itself.
    """

    scale: float
    position: Callable[[Hyperparameters, Frame], float]
    is_learnt: bool = False


@dataclass(frozen=True)
class Dimension:
    """One hyperparameter.

    Attributes:
        name: its key in study files, records and answers, spelled as in LLaMA-Factory, peft and
            transformers.
        kind: the kind of its values.
        group: `adapter` if it is a setting of the LoRA adapter (an argument of peft's LoraConfig),
            `base` if it is the base model, otherwise `training`.
        heading: its column heading in the report.
        short: its column heading in a terminal that is 80 characters wide.
        words: its form in a sentence, for example `r{}` for r16.
        meaning: explains its column in a table of runs that a person writes (`import FILE.csv`).
        changes_bytes: True if two values may need different bytes.
        coordinates: its positions in the surrogate's space; empty if losses do not depend on it.
        column: its place among the columns of a table. None: it follows the others, and is shown
            only if trials differ in it.
        form: the format of a printed value.
        most: the highest allowed number.
        default: its value in a study that does not search it, and in a record that was written
            before the hyperparameter existed. None: every study and every record holds it.
        is_setting: True if a study that does not search it sets it under `training`, or as its
            own key. A point and a record then hold None.
        usual: the value that the surrogate assumes for such a point.
        needs: tells from the values of a point, by name, if it applies there. A point where it
            does not apply holds `idle`. None: it always applies.
        needs_words: what it needs, in words, for messages.
        none_value: the value that stands for its absence, if that is not the default.
        follows: the hyperparameter that a Ratio multiplies.
        keys: its key by tool, if the tool's key differs from the name.
        always_exported: True if an export names it even at its default, because the tools'
            defaults differ.
    """

    name: str
    kind: Kind
    group: Literal["adapter", "training", "base"]
    heading: str
    short: str
    words: str
    meaning: str
    changes_bytes: bool
    coordinates: tuple[Coordinate, ...]
    column: int | None = None
    form: str = "{}"
    most: float = math.inf
    default: Any = None
    is_setting: bool = False
    usual: Any = None
    needs: Callable[[Mapping[str, Any]], bool] | None = None
    needs_words: str = ""
    none_value: Any = None
    follows: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    always_exported: bool = False

    @property
    def is_optional(self) -> bool:
        """True if a record may lack it."""
        has_default = self.default is not None and not isinstance(self.default, Ratio)
        return has_default or self.is_setting

    @property
    def is_name(self) -> bool:
        """True if its values are no numbers."""
        return self.kind in ("categorical", "flag")

    @property
    def is_workload(self) -> bool:
        """True if it is a field of the memory model's `Workload` that training files name too."""
        is_read = self.is_optional and self.kind != "categorical"
        return is_read and self.changes_bytes and self.group == "adapter"

    @property
    def idle(self) -> Any:
        """The value that a point holds where it does not apply."""
        return self.default if self.none_value is None else self.none_value

    def applies(self, values: Mapping[str, Any]) -> bool:
        """True if it applies to a point with these values."""
        return self.needs is None or self.needs(values)

    def value_in(self, hyperparameters: Mapping[str, Any]) -> Any:
        """Returns its value in a record; None if the value is unknown."""
        default = self.default if self.is_optional else None
        return hyperparameters.get(self.name, default)

    def shown(self, value: Any) -> str:
        """Formats a value for a table; an unknown value is `?`."""
        if value is None:
            return "?"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return short_exponent(self.form.format(value))

    def in_words(self, value: Any) -> str:
        """Formats a value for a sentence."""
        return self.words.format(self.shown(value))

    def key(self, tool: str) -> str:
        """Returns its key in a tool's configuration."""
        return self.keys.get(tool, self.name)
