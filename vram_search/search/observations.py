"""What the trials of a search have shown so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from vram_search.spec import Hyperparameters


@dataclass(frozen=True)
class Observation:
    """All that is known of one point.

    Attributes:
        number: of its last trial.
        losses: eval_loss at the rungs reached, in their order.
        final: eval_loss of the complete trial.
        diverged: no better is to be expected of it.
        fits: it is not known to need more memory than there is.
    """

    number: int
    hyperparameters: Hyperparameters
    losses: tuple[float, ...] = ()
    final: float | None = None
    diverged: bool = False
    fits: bool = True

    @property
    def is_open(self) -> bool:
        """It was stopped at a rung and could be trained to its end."""
        return bool(self.losses) and self.final is None and self.fits and not self.diverged


def merge_observations(trials: Iterable[Observation]) -> list[Observation]:
    """One entry a point: a trial that began anew adds to what its first one showed."""
    found: dict[Hyperparameters, Observation] = {}
    for trial in trials:
        earlier = found.get(trial.hyperparameters)
        if earlier is None:
            found[trial.hyperparameters] = trial
            continue
        losses = max(earlier.losses, trial.losses, key=len)
        final = trial.final if trial.final is not None else earlier.final
        found[trial.hyperparameters] = replace(
            trial,
            losses=losses,
            final=final,
            diverged=final is None and (earlier.diverged or trial.diverged),
            fits=trial.fits,
        )
    return list(found.values())
