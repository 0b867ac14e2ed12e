"""Constraints of a study: limits that its winner must keep besides the card's memory."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from vram_search.spec.base import PositiveFloat, Spec
from vram_search.units import GIB, MIB

UNITS = {"max_train_seconds": 1, "max_adapter_mib": MIB, "max_required_gib": GIB}
"""Seconds or bytes in one unit of each constraint."""
ADAPTER_ELEMENT = 4
"""Bytes of a parameter in a saved adapter (fp32)."""


def saved_adapter_bytes(trainable_parameters: int, hyperparameters: Mapping[str, object]) -> int:
    """Returns the size of a saved adapter; one that started from the base's weights is saved with
    its start (`train/initial_adapter.py`)."""
    copies = 1 if hyperparameters.get("init_lora_weights", "default") == "default" else 2
    return copies * ADAPTER_ELEMENT * trainable_parameters


class Constraints(Spec):
    """Limits on every trial. A trial that is predicted to break one is not trained."""

    max_train_seconds: PositiveFloat | None = Field(
        default=None,
        description="seconds of a full trial's optimizer steps, on the device that trains",
    )
    max_adapter_mib: PositiveFloat | None = Field(
        default=None, description="size of the saved adapter (fp32)"
    )
    max_required_gib: PositiveFloat | None = Field(
        default=None, description="smallest memory limit under which a trial runs"
    )

    def limits(self) -> dict[str, float]:
        """Returns the limits that are set, in seconds or bytes."""
        found = {name: getattr(self, name) for name in UNITS}
        return {name: UNITS[name] * limit for name, limit in found.items() if limit is not None}

    def excess(self, figures: Mapping[str, float | None]) -> dict[str, float]:
        """Returns the share by which each limit is broken; <= 0 where it is kept.

        Args:
            figures: seconds or bytes by constraint; one without a figure is left out.
        """
        return {
            name: figure / limit - 1
            for name, limit in self.limits().items()
            if (figure := figures.get(name)) is not None
        }
