"""Observations: the results of a search's trials so far, one for each point."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, TrialState

from vram_search.search.encoding import decode, distributions
from vram_search.search.problem import Problem
from vram_search.spec import Hyperparameters
from vram_search.store.skips import SKIPPED

DIVERGED = "diverged"
"""User attribute of trials whose loss was not finite."""
OBSERVED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of trials that tell something of their point; a failed one tells nothing."""


@dataclass(frozen=True)
class Observation:
    """The results at one point.

    Attributes:
        number: number of its last trial.
        losses: eval_loss at the rungs reached, in their order.
        final: eval_loss of the complete trial.
        diverged: its loss was not finite.
        fits: it is not known to need more memory than the card has, or to break a constraint of
            the study.
        is_running: its last trial has not ended.
        was_skipped: a person has ended its last trial.
    """

    number: int
    hyperparameters: Hyperparameters
    losses: tuple[float, ...] = ()
    final: float | None = None
    diverged: bool = False
    fits: bool = True
    is_running: bool = False
    was_skipped: bool = False

    @property
    def is_unfinished(self) -> bool:
        """It reached a rung and could be trained to its end."""
        return bool(self.losses) and self.final is None and self.fits and not self.diverged

    @property
    def is_stopped(self) -> bool:
        """It was stopped at a rung and could be trained again, to its end."""
        return self.is_unfinished and not self.is_running and not self.was_skipped

    @property
    def is_pending(self) -> bool:
        """It is running and has no loss yet."""
        return self.is_running and not self.losses and self.final is None and not self.diverged


class Observer:
    """Observes the trials of a problem's studies; a finished trial is read once."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._finished: dict[tuple[int, object], Observation] = {}

    def observe(self, trials: Iterable[FrozenTrial]) -> list[Observation]:
        """One observation for each trial that tells something of its point, in their order."""
        found = []
        for trial in trials:
            key = (trial.number, trial.datetime_complete)
            known = self._finished.get(key)
            if known is None:
                known = next(iter(observe((trial,), self._problem)), None)
                if known is not None and trial.datetime_complete is not None:
                    self._finished[key] = known
            if known is not None:
                found.append(known)
        return found


def observe(trials: Iterable[FrozenTrial], problem: Problem) -> list[Observation]:
    """One observation for each trial of Optuna that tells something of its point."""
    names = distributions(problem.space).keys()
    return [
        _observation(trial, problem)
        for trial in trials
        # A trial that another process is asking for has no parameters yet.
        if trial.state in OBSERVED and trial.params.keys() >= names
    ]


def _observation(trial: FrozenTrial, problem: Problem) -> Observation:
    losses = [trial.intermediate_values.get(rung) for rung in range(len(problem.rungs))]
    return Observation(
        trial.number,
        decode(trial.params, problem.space),
        tuple(loss for loss in losses if loss is not None and math.isfinite(loss)),
        trial.value if trial.state == TrialState.COMPLETE else None,
        diverged=DIVERGED in trial.user_attrs,
        fits=all(share <= 0 for share in trial.constraints.values()),
        is_running=trial.state == TrialState.RUNNING,
        was_skipped=SKIPPED in trial.user_attrs,
    )


def merge_observations(trials: Iterable[Observation]) -> list[Observation]:
    """One observation for each point: a repeated trial adds to the results of the earlier one."""
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
