"""The base models of a study of several, of which one holds the card at a time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vram_search.estimate import choose_plan
from vram_search.search import Problem
from vram_search.search.gp.transfer import LEARNING_RATE_EXPONENT
from vram_search.search.model_costs import ModelCosts
from vram_search.spec import Hyperparameters
from vram_search.spec.hyperparameters import ModelPlace
from vram_search.spec.initial_points import initial_points
from vram_search.units import format_duration
from vram_search.worker.constraints import train_seconds
from vram_search.worker.context import RunContext
from vram_search.worker.load_base import make_ready
from vram_search.worker.prepare import Prepared
from vram_search.worker.recorded_run import CurrentRun
from vram_search.worker.stop_rule import COMPLETE

FIRST_BYTES_PER_SECOND = 0.5e9
"""Guess of the speed at which 16-bit weights are read and quantised, before a model was loaded."""
PROCESS_SECONDS = 10.0
"""Guess of the seconds in which a training process starts."""


def reference_size(prepared: Prepared) -> float:
    """Returns the geometric mean of the models' hidden sizes."""
    return math.exp(statistics.fmean(math.log(one.shape.hidden_size) for one in prepared.each))


def model_places(prepared: Prepared) -> Mapping[str, ModelPlace]:
    """Returns the models' places in the surrogate's space; empty if the study has one model."""
    if not prepared.views:
        return {}
    logs = {one.name or "": math.log2(one.shape.parameters) for one in prepared.views}
    middle, reference = statistics.median(logs.values()), reference_size(prepared)
    return {
        one.name or "": ModelPlace(
            logs[one.name or ""] - middle,
            (one.shape.hidden_size / reference) ** LEARNING_RATE_EXPONENT,
        )
        for one in prepared.views
    }


def guessed_load_seconds(prepared: Prepared) -> float:
    """Guesses the seconds in which a process starts and loads a base model."""
    return PROCESS_SECONDS + 2 * prepared.shape.parameters / FIRST_BYTES_PER_SECOND


def guessed_loading(prepared: Prepared) -> float:
    """Guesses the seconds that a search of several base models spends on loading them.

    Each that fits is loaded once, and the search returns to one of them: two searches on record
    loaded 3 models four times and 2 models twice. 0 if the study has one model.
    """
    each = [guessed_load_seconds(one) for one in prepared.views if not one.left_out]
    return sum(each) + (statistics.fmean(each) if len(each) > 1 else 0.0)


@dataclass
class BaseModels:
    """Loads the base model that a trial needs, and removes the one before.

    Args:
        contexts: the run's context for each base model, first those that fit the card.
        problem: takes the seconds that models cost.
        run: takes the seconds of loading.
    """

    contexts: Sequence[RunContext]
    problem: Problem
    run: CurrentRun
    costs: ModelCosts = field(init=False)
    resident: RunContext | None = field(init=False, default=None)
    device: str = field(init=False, default="")
    loads: int = field(init=False, default=0)
    load_seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        fitting = [one for one in self.contexts if not one.prepared.left_out]
        self.costs = ModelCosts(
            {_name(one): _predicted_seconds(one) for one in fitting},
            {_name(one): guessed_load_seconds(one.prepared) for one in fitting},
        )
        self.problem.model_costs = self.costs
        self.update_costs()

    def of(self, point: Hyperparameters) -> RunContext:
        """Returns the context of a point's base model."""
        return next(one for one in self.contexts if one.prepared.name == point.model)

    def fits(self, point: Hyperparameters) -> bool:
        """True if a plan of the point is predicted to fit (`RunContext.fits`)."""
        return self.of(point).fits(point)

    def for_trial(self, point: Hyperparameters) -> tuple[RunContext, str]:
        """Returns the context of a trial and the device, with the trial's base model on the card.

        A point that does not fit loads nothing: its trial is recorded as infeasible.
        """
        context = self.of(point)
        if context is not self.resident and context.fits(point):
            self._load(context)
        return context, self.device

    def _load(self, context: RunContext) -> None:
        if self.resident is not None:
            self.resident.trainer.replace()
            self.costs.resident = self.resident = None
        began = time.perf_counter()
        self.device = make_ready(context, self.run).device
        context.lease.describe(self.device, context.budget_bytes)
        seconds = time.perf_counter() - began
        self.loads += 1
        self.load_seconds += seconds
        self.costs.load_seconds[_name(context)] = seconds
        self.costs.resident, self.resident = context.prepared.name, context
        context.idle_since = None

    def update_costs(self) -> None:
        """Takes the seconds of complete trials in place of predicted ones."""
        found: dict[str, list[float]] = {}
        first = self.contexts[0]
        for trial in first.store.trials(first.record.id, (COMPLETE,)):
            seconds = trial.seconds or {}
            spent = sum(seconds.get(phase, 0.0) for phase in ("probe", "train", "eval", "save"))
            if spent > 0:
                found.setdefault(trial.hyperparameters.get("model", ""), []).append(spent)
        for name, spent_by_trial in found.items():
            if name in self.costs.train_seconds:
                self.costs.train_seconds[name] = statistics.median(spent_by_trial)

    def tell_loading(self) -> None:
        """Says how many seconds went to loading base models."""
        if self.loads:
            models = "a base model was" if self.loads == 1 else f"{self.loads} base models were"
            self.contexts[0].listener.note(
                f"{models} loaded in {format_duration(self.load_seconds)}"
            )


def _name(context: RunContext) -> str:
    return context.prepared.name or ""


def _predicted_seconds(context: RunContext) -> float:
    """Predicts the seconds of a whole trial of the first published point."""
    point = initial_points(context.study.space)[0]
    candidates = context.candidates(point)
    planned = choose_plan(candidates, context.budget_bytes, context.margin) or candidates[0]
    return train_seconds(context.study, context.prepared.row_tokens, point, planned)
