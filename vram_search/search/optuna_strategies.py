"""Strategies `tpe` and `random`: Optuna's samplers with its median pruner."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vram_search.search.strategy import Explanation, StoppedTrial
from vram_search.units import percent

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from vram_search.search.problem import Problem
    from vram_search.spec import Hyperparameters

RANDOM_TRIALS = 5
"""Trials before TPE's model is used; the initial points count."""
TRIALS_BEFORE_PRUNING = 3


class _OptunaStrategy:
    """The rules that Optuna's strategies share: they know nothing of memory or of earlier searches.

    The median pruner fits real curves: the better half at 1/9 of a run keeps all of the five best
    (docs/experiments.md).
    """

    infeasible_in_a_row = 100
    initial_points_summary = "first trials, published configurations"
    pruned_summary = "it was behind the others"

    def initial_points(
        self, published: Sequence[Hyperparameters], trials: int | None
    ) -> Sequence[Hyperparameters]:
        """All of them; half of a small budget is left for the sampler."""
        return published if trials is None else published[: max(1, trials // 2)]

    def enqueued_points(self, problem: Problem) -> Sequence[Hyperparameters]:
        """All initial points: Optuna's samplers have no notion of them."""
        return problem.initial_points

    def global_stopping(self) -> None:
        """None: Optuna's samplers do not say what they expect."""
        return None

    def explain_pruned(self, stopped: StoppedTrial) -> Explanation:
        """Compares the trial with those that were complete, as the median pruner does."""
        facts, figures = compare_with_complete(stopped)
        if stopped.lowest_loss > figures.get("median", stopped.lowest_loss):
            facts.append("at a rung, what is above the median of the complete trials is stopped")
        return facts, figures


@dataclass(frozen=True)
class TpeStrategy(_OptunaStrategy):
    """Optuna's tree-structured Parzen estimator."""

    name: str = "tpe"

    def open(self, problem: Problem, seed: int) -> tuple[BaseSampler, BasePruner]:
        """See `Strategy.open`."""
        from optuna.samplers import TPESampler

        sampler = TPESampler(multivariate=True, n_startup_trials=RANDOM_TRIALS, seed=seed)
        return sampler, _median_pruner()


@dataclass(frozen=True)
class RandomStrategy(_OptunaStrategy):
    """Random points."""

    name: str = "random"

    def open(self, problem: Problem, seed: int) -> tuple[BaseSampler, BasePruner]:
        """See `Strategy.open`."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed), _median_pruner()


def _median_pruner() -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING)


def compare_with_complete(stopped: StoppedTrial) -> Explanation:
    """Compares a stopped trial with the trials that were complete by then."""
    lowest = stopped.lowest_loss
    facts = [f"its lowest eval_loss up to {percent(stopped.rung)} of the run was {lowest:.4f}"]
    figures: dict[str, Any] = {"rung": stopped.rung, "lowest_eval_loss": lowest}
    others = [at_rung for other, at_rung in stopped.others if other.outcome == "complete"]
    if others:
        median, lower = statistics.median(others), sum(loss < lowest for loss in others)
        facts.append(
            f"at this point {lower} of the {len(others)} complete trials had been better: "
            f"median {median:.4f}, lowest {min(others):.4f}"
        )
        figures |= {"compared_trials": len(others), "lower_trials": lower, "median": median}
    else:
        facts.append("no complete trial existed to compare it with")
    return facts, figures
