"""The seconds that the base models of a search cost: to load, and to train on."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass
class ModelCosts:
    """Prices a trial by its base model. The worker keeps it up to date while the search runs.

    Attributes:
        train_seconds: seconds of a whole trial, by the model's name.
        load_seconds: seconds until the model is on the card, by its name.
        resident: the model on the card; None before the first is loaded.
    """

    train_seconds: dict[str, float]
    load_seconds: dict[str, float]
    resident: str | None = None

    def trial_share(self, model: str | None) -> float:
        """Returns a whole trial's seconds as a multiple of the mean over the models."""
        return self._share(self.train_seconds.get(model or ""))

    def load_share(self, model: str | None) -> float:
        """Returns the seconds until the model is on the card, in the same unit."""
        if model == self.resident:
            return 0.0
        return self._share(self.load_seconds.get(model or ""))

    def _share(self, seconds: float | None) -> float:
        mean = statistics.fmean(self.train_seconds.values()) if self.train_seconds else 0.0
        return 1.0 if seconds is None or mean <= 0 else seconds / mean
