"""What every part of a study file is: frozen, typed, unknown keys refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(strict=True, ge=1)]
"""A whole number of at least 1; `8.0`, "8" and `true` are faults."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0. `2e-4` is accepted although YAML 1.1 reads it as text."""

Flag = Annotated[bool, Field(strict=True)]


class Spec(BaseModel):
    """Base of all parts of a study file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
