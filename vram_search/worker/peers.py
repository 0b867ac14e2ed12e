"""The other workers of a study, as the loop of a search asks for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from vram_search.search import Proposal
from vram_search.spec import Hyperparameters
from vram_search.store import Outcome, TrialRecord
from vram_search.store.workers import end_worker, running_owners, workers_of
from vram_search.worker.context import RunContext
from vram_search.worker.lease import LeaseLostError
from vram_search.worker.reconcile import reconcile
from vram_search.worker.runner import TrialRunner
from vram_search.worker.stop_rule import COMPLETE, FINISHED, StopRule

WAIT_SECONDS = 1.0


@dataclass
class StudyPeers:
    """The workers of one study, by its record."""

    context: RunContext
    runner: TrialRunner
    stop: StopRule
    _done: set[Hyperparameters] = field(default_factory=set)
    _running: set[Hyperparameters] = field(default_factory=set)
    _first_open: int = 0
    """All trials with a lower number have ended and are in `_done`."""
    _own: set[int] = field(default_factory=set)
    _told: set[int] = field(default_factory=set)
    """Numbers of trials of others whose end the listener knows."""
    _waits: bool = False

    def __post_init__(self) -> None:
        trials = self.context.store.trials(self.context.record.id)
        self._told = {trial.number for trial in trials if trial.outcome is not None}

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Holds the study's turn; trials of dead workers are taken over first."""
        context = self.context
        with context.turn():
            try:
                context.lease.renew()
            except LeaseLostError:
                context.lease.take_again()
            take_over(context)
            self._read_trials()
            yield

    def must_wait(self) -> bool:
        """True if finished and running trials use up the budget: one that runs may get lost."""
        if self.stop.trials is None:
            return False
        counts = self.context.store.outcome_counts(self.context.record.id)
        finished = sum(counts[outcome] for outcome in FINISHED)
        waits = finished + counts["running"] >= self.stop.trials
        if waits and not self._waits:
            self.context.listener.note("the last trials run in other workers; waiting for them")
        self._waits = waits
        return waits

    def wait(self) -> None:
        time.sleep(WAIT_SECONDS)

    def is_tried(self, point: Hyperparameters) -> bool:
        return point in self._done or point in self._running

    def complete(self) -> int:
        return self.context.store.outcome_counts(self.context.record.id)[COMPLETE]

    def is_for_others(self, proposal: Proposal) -> bool:
        """A point that waited, perhaps a trial of a larger card, is not infeasible everywhere."""
        context = self.context
        if not proposal.was_enqueued or context.fits(proposal.hyperparameters):
            return False
        budgets = [worker.budget_bytes or 0 for worker in context.lease.others()]
        return max(budgets, default=0) > context.budget_bytes

    def begin(self, proposal: Proposal) -> None:
        self._own.add(proposal.number)
        self.runner.begin(proposal)

    def ended(self, proposal: Proposal, outcome: Outcome) -> None:
        """An infeasible point is tried again in another run only: with another budget perhaps."""
        if outcome != "lost":
            self._done.add(proposal.hyperparameters)

    def _read_trials(self) -> None:
        """Reads the trials that may have changed, and tells of those that others have ended."""
        self._running.clear()
        elsewhere: list[TrialRecord] = []
        still_open: int | None = None
        number = self._first_open - 1
        for trial in self.context.store.trials(self.context.record.id, first=self._first_open):
            number = trial.number
            point = Hyperparameters.model_validate(trial.hyperparameters)
            if trial.outcome is None:
                self._running.add(point)
                still_open = number if still_open is None else still_open
                if number not in self._own:
                    elsewhere.append(trial)
                continue
            if trial.outcome in FINISHED:
                self._done.add(point)
            if number not in self._own | self._told:
                self._told.add(number)
                self.context.listener.trial_ended(trial)
        self.context.listener.others_running(elsewhere)
        self._first_open = number + 1 if still_open is None else still_open


def take_over(context: RunContext) -> None:
    """Records trials of dead workers as lost, so that they are run again; within the turn."""
    store, study_id, lease = context.store, context.record.id, context.lease
    dead = {worker.id for worker in lease.dead()}
    alive = {worker.id for worker in workers_of(store.engine, study_id)} - dead
    if not dead and all(owner in alive for owner in running_owners(store.engine, study_id)):
        return
    reconcile(store, context.record, context.search, context.listener.note, alive)
    for worker_id in dead:
        end_worker(store.engine, worker_id)
