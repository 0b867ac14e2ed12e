"""The base of every part of a study file: frozen, typed, without unknown keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Count = Annotated[int, Field(strict=True, ge=1)]
"""A whole number of at least 1; `8.0`, "8" and `true` are refused."""


def _refuse_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is expected")
    return value


Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_refuse_flag)]
"""A finite number. `2e-4` is accepted although YAML 1.1 reads it as text; `true` is refused."""

PositiveFloat = Annotated[Number, Field(gt=0)]

Flag = Annotated[bool, Field(strict=True)]


def plain_message(details: ErrorDetails) -> str:
    """Returns the message of one of pydantic's errors without its prefix."""
    return details["msg"].removeprefix("Value error, ")


class Spec(BaseModel):
    """Base of all parts of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
