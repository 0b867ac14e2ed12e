"""Strategy `gp`: a Gaussian process that also learns from earlier searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vram_search.search.global_stopping import GlobalStopping
from vram_search.search.gp.rules import GpRules
from vram_search.search.strategy import Explanation, StoppedTrial
from vram_search.store import TrialRecord
from vram_search.units import percent

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from vram_search.search.problem import Problem
    from vram_search.spec import Hyperparameters


@dataclass(frozen=True)
class GpStrategy:
    """The default strategy: `GpSampler` and `GpPruner`.

    Attributes:
        infeasible_in_a_row: low, since the sampler proposes a point that does not fit only where
            none of hundreds did.
        stopping: the rule that ends a search early.
    """

    rules: GpRules = field(default_factory=GpRules)
    stopping: GlobalStopping = field(default_factory=GlobalStopping)
    name: str = field(default="gp", init=False)
    infeasible_in_a_row: int = 3
    initial_points_summary: str = field(
        default="first it tries two settings learned from earlier searches (chosen at run time), "
        "then these published ones",
        init=False,
    )
    pruned_summary: str = field(
        default="another configuration promised more for the time", init=False
    )

    def initial_points(
        self, published: Sequence[Hyperparameters], trials: int | None
    ) -> Sequence[Hyperparameters]:
        """A few; they and the points that earlier searches recommend take half of a small budget
        at most."""
        first = published[: self.rules.published_first]
        if trials is None:
            return first
        return first[: max(0, trials // 2 - self.rules.recommended_first)]

    def enqueued_points(self, problem: Problem) -> Sequence[Hyperparameters]:
        """None: the sampler proposes the initial points after those of earlier searches."""
        return ()

    def open(self, problem: Problem, seed: int) -> tuple[BaseSampler, BasePruner]:
        """See `Strategy.open`."""
        from vram_search.search.gp.sampler import GpPruner, GpSampler

        sampler = GpSampler(problem, seed=seed, rules=self.rules)
        return sampler, GpPruner(sampler)

    def global_stopping(self) -> GlobalStopping:
        """The rule with a fresh count."""
        return replace(self.stopping)

    def explain_pruned(self, stopped: StoppedTrial) -> Explanation:
        """Compares the trial with every configuration that had reached its rung."""
        loss = stopped.loss
        others = {
            _configuration(other): at_rung
            for other, at_rung in stopped.others
            if other.outcome != "lost"
        }
        others.pop(_configuration(stopped.trial), None)
        losses = [loss, *others.values()]
        best_third = self.rules.kept_up_to(losses)
        lower = sum(other < loss for other in losses)
        facts = [f"its eval_loss at {percent(stopped.rung)} of the run was {loss:.4f}"]
        if others:
            facts.append(
                f"at this point {lower} of the {len(others)} other configurations had been "
                f"better; the best third (eval_loss up to {best_third:.4f}) always continues"
            )
        else:
            facts.append("no other configuration had reached this point to compare it with")
        if loss > best_third:
            facts.append(
                "it was not among the best third, and a new trial promised clearly more "
                "improvement for the time"
            )
        figures: dict[str, Any] = {
            "rung": stopped.rung,
            "rung_eval_loss": loss,
            "compared_configurations": len(losses),
            "lower_configurations": lower,
            "best_third": best_third,
        }
        return facts, figures


def _configuration(trial: TrialRecord) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(trial.hyperparameters.items()))
