"""The loop of a search: proposals become trials until a rule ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vram_search.search.study import Proposal, Search
from vram_search.spec import Hyperparameters
from vram_search.store import Outcome

REPEATED_IN_A_ROW = 50
"""Proposals of points that were tried before, after which no new ones are expected."""


def run_trials(
    search: Search,
    run_trial: Callable[[Proposal], Outcome],
    is_over: Callable[[], str],
    *,
    tried: Iterable[Hyperparameters] = (),
    complete: int = 0,
    stop_early: bool = True,
) -> str:
    """Asks for a proposal, runs it, and starts again, until a rule ends the search.

    Args:
        run_trial: runs a proposal, reports its result by `Search.tell` and returns its outcome.
        is_over: why no further trial is started; empty while one is.
        tried: points that are not proposed again, unless they were stopped too early.
        complete: trials that are complete already.
        stop_early: whether the strategy may end the search.

    Returns:
        Why the search ended.
    """
    stopping = search.strategy.global_stopping() if stop_early else None
    done, repeated = set(tried), 0
    while True:
        if why := is_over():
            return why
        proposal = search.ask()
        if (
            stopping is not None
            and proposal.gain is not None
            and stopping.is_due(complete, proposal.gain)
        ):
            search.drop(proposal.number)
            return (
                "no further improvement is expected: one more run promises to lower the best "
                f"{search.problem.objective.name} by {proposal.gain:.3%} "
                "(budget.stop_early: false goes on)"
            )
        if proposal.hyperparameters in done and proposal.retry_of is None:
            search.drop(proposal.number)
            repeated += 1
            if repeated >= REPEATED_IN_A_ROW:
                return "every point of the search space that the sampler proposes has been tried"
            continue
        repeated = 0
        outcome = run_trial(proposal)
        complete += outcome == "complete"
        if outcome != "lost":
            done.add(proposal.hyperparameters)
