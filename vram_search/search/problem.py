"""A search problem: the space, its rungs, and what is known before the first trial."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vram_search.search.model_costs import ModelCosts
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.spec.constraints import Constraints
from vram_search.spec.hyperparameters import ModelPlace
from vram_search.spec.objective import EVAL_LOSS, OBJECTIVES, Objective

if TYPE_CHECKING:
    from vram_search.search.gp.transfer import SourceTask
    from vram_search.search.observations import Observation

Candidates = Callable[["Sequence[Observation]"], "Sequence[Hyperparameters]"]


def always_feasible(point: Hyperparameters) -> bool:
    """Every point fits the card."""
    return True


@dataclass
class Problem:
    """The problem that a strategy solves.

    A sampler reads it at every proposal: `is_feasible`, `largest_cutoff_len` and `candidates` may
    be set while the search runs.

    Attributes:
        rungs: shares of a run at which trials are evaluated and may be pruned, ascending, the end
            left out. A trial reports its loss with the place of the rung as Optuna's `step`.
        initial_points: points to try first.
        source_tasks: earlier searches, the most relevant first; read once.
        hidden_size: hidden_size of the model; learning rates of earlier searches are scaled to it.
        is_feasible: whether a point is predicted to fit the card.
        largest_cutoff_len: no training row is longer, so larger values would train the same.
        constraints: the study's own limits, reported to Optuna besides the memory budget.
        objective: the figure that is lowered; trials report its values.
        models: places of the base models by short name, of a search over several.
        model_costs: seconds that the base models cost; None: all trials cost the same.
        candidates: gives the points to choose from, by what was observed so far; None: points are
            drawn from the space.
    """

    space: SearchSpace
    rungs: Sequence[float] = ()
    initial_points: Sequence[Hyperparameters] = ()
    source_tasks: Iterable[SourceTask] = ()
    hidden_size: int | None = None
    is_feasible: Callable[[Hyperparameters], bool] = always_feasible
    largest_cutoff_len: int | None = None
    candidates: Candidates | None = None
    constraints: Constraints = field(default_factory=Constraints)
    objective: Objective = OBJECTIVES[EVAL_LOSS]
    models: Mapping[str, ModelPlace] = field(default_factory=dict)
    model_costs: ModelCosts | None = None

    @property
    def distinct_space(self) -> SearchSpace:
        """The space without values of cutoff_len that would train the same as a smaller one."""
        if self.largest_cutoff_len is None:
            return self.space
        kept = tuple(c for c in self.space.cutoff_len if c <= self.largest_cutoff_len)
        return self.space.model_copy(update={"cutoff_len": kept})

    def cost(self, point: Hyperparameters, share: float, *, starts: bool) -> float:
        """Returns the price of a share of a run: the share itself, of a search with one model.

        Args:
            starts: True if the trial is not running, so that its model may have to be loaded.
        """
        costs = self.model_costs
        if costs is None:
            return share
        loading = costs.load_share(point.model) if starts else 0.0
        return share * costs.trial_share(point.model) + loading

    def is_resident(self, point: Hyperparameters) -> bool:
        """True if a trial of the point loads no base model."""
        return self.model_costs is None or self.model_costs.load_share(point.model) == 0

    def rung(self, fraction: float, point: Hyperparameters) -> int:
        """Place of the rung that is nearest to this share of a point's run. Rungs are shares of the
        longest run in the space."""
        share = fraction * self.space.length_share(point)
        return min(range(len(self.rungs)), key=lambda place: abs(self.rungs[place] - share))
