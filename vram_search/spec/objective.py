"""The objective of a study: the figure of a trial by which trials are ranked.

This module does not load pydantic: questions about a study are answered fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ObjectiveName = Literal["eval_loss", "bits_per_byte"]
EVAL_LOSS: ObjectiveName = "eval_loss"
BITS_PER_BYTE: ObjectiveName = "bits_per_byte"


@dataclass(frozen=True)
class Objective:
    """One objective; lower values are better.

    Attributes:
        name: the value of the study's key `objective`. It is also the name of the figure in
            records of trials and evaluations.
        unit: the unit of its values, in words.
        short: its column heading in a terminal that is 80 characters wide.
    """

    name: ObjectiveName
    unit: str
    short: str

    def value_of(self, figures: Any) -> float | None:
        """Returns the objective's value of an evaluation or a trial."""
        value: float | None = getattr(figures, self.name)
        return value


OBJECTIVES: Mapping[ObjectiveName, Objective] = {
    EVAL_LOSS: Objective(EVAL_LOSS, "nats per token", "eval"),
    BITS_PER_BYTE: Objective(BITS_PER_BYTE, "bits per byte of the answers", "bits/B"),
}
"""All objectives by name."""


def objective_named(name: str | None) -> Objective:
    """Returns an objective by its name; eval_loss for None and for an unknown name."""
    return next((one for one in OBJECTIVES.values() if one.name == name), OBJECTIVES[EVAL_LOSS])


def recorded_objective(spec: Mapping[str, Any]) -> Objective:
    """Returns the objective of a recorded study; records from before the key hold eval_loss."""
    identity = spec.get("identity")
    name = identity.get("objective") if isinstance(identity, Mapping) else None
    return objective_named(name)
