"""The loop of a search: proposals become trials until a rule ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from vram_search.search.study import Proposal, Search
from vram_search.spec import Hyperparameters
from vram_search.store import Outcome

REPEATED_IN_A_ROW = 50
"""Proposals of points that were tried before, after which no new ones are expected."""


class Peers(Protocol):
    """The other workers of the same search, as the loop sees them."""

    def turn(self) -> AbstractContextManager[None]:
        """While it is held, no other worker asks for a proposal."""
        ...

    def must_wait(self) -> bool:
        """True if the trials that run elsewhere may use up the budget. Called within the turn."""
        ...

    def wait(self) -> None:
        """Waits before the loop looks again."""
        ...

    def is_tried(self, point: Hyperparameters) -> bool:
        """True for a point that was tried, or runs now. Called within the turn."""
        ...

    def complete(self) -> int:
        """Number of complete trials. Called within the turn."""
        ...

    def is_for_others(self, proposal: Proposal) -> bool:
        """True for a point that waited and fits a card of another worker alone. Called within the
        turn."""
        ...

    def begin(self, proposal: Proposal) -> None:
        """Records a proposal as running. Called within the turn."""
        ...

    def ended(self, proposal: Proposal, outcome: Outcome) -> None:
        """A trial of this worker has ended."""
        ...


class NoPeers:
    """A search that one process runs.

    Args:
        tried: points that are not proposed again, unless they were stopped too early.
        complete: trials that are complete already.
    """

    def __init__(self, tried: Iterable[Hyperparameters] = (), complete: int = 0) -> None:
        self._done, self._complete = set(tried), complete

    def turn(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def must_wait(self) -> bool:
        return False

    def wait(self) -> None:
        """It never waits."""

    def is_tried(self, point: Hyperparameters) -> bool:
        return point in self._done

    def complete(self) -> int:
        return self._complete

    def is_for_others(self, proposal: Proposal) -> bool:
        return False

    def begin(self, proposal: Proposal) -> None:
        """Nobody else has to know."""

    def ended(self, proposal: Proposal, outcome: Outcome) -> None:
        self._complete += outcome == "complete"
        if outcome != "lost":
            self._done.add(proposal.hyperparameters)


def run_trials(
    search: Search,
    run_trial: Callable[[Proposal], Outcome],
    is_over: Callable[[], str],
    *,
    peers: Peers | None = None,
    stop_early: bool = True,
) -> str:
    """Asks for a proposal, runs it, and starts again, until a rule ends the search.

    Args:
        run_trial: runs a proposal, reports its result by `Search.tell` and returns its outcome.
        is_over: why no further trial is started; empty while one is. Called within the turn.
        peers: the other workers; None: there are none, and nothing was tried before.
        stop_early: whether the strategy may end the search.

    Returns:
        Why the search ended.
    """
    peers = peers or NoPeers()
    proposals = _Proposals(search, peers, stop_early=stop_early)
    while True:
        with peers.turn():
            if why := is_over() or proposals.why_over:
                return why
            proposal = None if peers.must_wait() else proposals.next()
            if proposal is not None:
                peers.begin(proposal)
        if proposal is not None:
            peers.ended(proposal, run_trial(proposal))
        elif not proposals.why_over:
            peers.wait()


class _Proposals:
    """Asks for proposals, and says when the search is over by its own rules.

    Attributes:
        why_over: the reason; empty while the search goes on.
    """

    def __init__(self, search: Search, peers: Peers, *, stop_early: bool) -> None:
        self._search, self._peers = search, peers
        self._stopping = search.strategy.global_stopping() if stop_early else None
        self.why_over = ""

    def next(self) -> Proposal | None:
        """The next point that was not tried; None if the search is over."""
        left: list[Proposal] = []
        try:
            return self._next(left)
        finally:
            for proposal in left:
                self._search.put_back(proposal)

    def _next(self, left: list[Proposal]) -> Proposal | None:
        """As `next`; adds to `left` what other workers are to run."""
        for _ in range(REPEATED_IN_A_ROW):
            proposal = self._search.ask()
            if self._expects_no_gain(proposal):
                self._search.drop(proposal.number)
                self.why_over = (
                    "no further improvement is expected: one more run promises to lower the best "
                    f"{self._search.problem.objective.name} by {proposal.gain:.3%} "
                    "(budget.stop_early: false goes on)"
                )
                return None
            if self._peers.is_for_others(proposal):
                left.append(proposal)
                continue
            is_new = not self._peers.is_tried(proposal.hyperparameters)
            if is_new or proposal.retry_of is not None:
                return proposal
            self._search.drop(proposal.number)
        self.why_over = "every point of the search space that the sampler proposes has been tried"
        return None

    def _expects_no_gain(self, proposal: Proposal) -> bool:
        return (
            self._stopping is not None
            and proposal.gain is not None
            and self._stopping.is_due(self._peers.complete(), proposal.gain)
        )
