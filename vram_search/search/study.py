"""One search as an Optuna study that is driven by ask and tell. Knows no GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from vram_search.search.encoding import decode, distributions, encode
from vram_search.search.memory_constraint import constraint_of, set_memory_constraint
from vram_search.search.observations import DIVERGED
from vram_search.search.problem import Problem
from vram_search.search.recorded_trials import frozen_trial
from vram_search.search.storage import optuna_name
from vram_search.search.strategy import EXPECTED_GAIN, RETRY_OF, Strategy
from vram_search.search.study_constraints import record_excess
from vram_search.search.user_attributes import user_attributes
from vram_search.spec import Hyperparameters
from vram_search.store import Evaluation, Outcome, TrialRecord
from vram_search.store.skips import SKIPPED


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `number` is Optuna's.

    Attributes:
        retry_of: the trial with the same point that was lost, or stopped too early.
        was_enqueued: whether it waited in the queue, and is not what the sampler proposes now.
        gain: share by which one more run is expected to lower the best eval_loss; None where the
            strategy does not know.
    """

    number: int
    hyperparameters: Hyperparameters
    retry_of: int | None
    was_enqueued: bool
    gain: float | None


class Search:
    """The sampler's memory of one study.

    Args:
        storage: Optuna's; `open_storage` opens the one in our database.
        study: the study's name.
        revision: counts the search space's changes; each has an Optuna study of its own, since
            Optuna refuses changed categories.
        seed: seed of the sampler's random numbers.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study: str,
        revision: int,
        problem: Problem,
        strategy: Strategy,
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.problem, self.strategy = problem, strategy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=storage,
                study_name=optuna_name(study, revision),
                direction="minimize",
                load_if_exists=True,
            )
            self._study.set_metric_names([problem.objective.name])
        self._seed = seed
        self._open_strategy()
        self._running: dict[int, optuna.Trial] = {}

    def _open_strategy(self) -> None:
        """A continued study must not draw the same random points again: the seed follows the number
        of its trials."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler, pruner = self.strategy.open(self.problem, self._seed + self.trial_count)
        self._study.sampler, self._study.pruner = sampler, pruner

    def ask(self) -> Proposal:
        """The next point to try: enqueued ones first. Several may be asked for before one is
        told."""
        trial = self._study.ask(fixed_distributions=distributions(self.problem.space))
        self._running[trial.number] = trial
        # The sampler has added to the attributes that `trial` was made with.
        stored = trial.storage.get_trial(trial._trial_id)
        return Proposal(
            trial.number,
            decode(stored.params, self.problem.space),
            stored.user_attrs.get(RETRY_OF),
            "fixed_params" in stored.system_attrs,
            stored.system_attrs.get(EXPECTED_GAIN),
        )

    def enqueue(self, hyperparameters: Hyperparameters) -> None:
        """Puts a point in front of what the sampler proposes, unless it was proposed before."""
        params = encode(hyperparameters, self.problem.space)
        self._study.enqueue_trial(params, skip_if_exists=True)

    def enqueue_initial_points(self) -> None:
        """Enqueues the problem's initial points, if the sampler does not propose them itself."""
        for point in self.strategy.enqueued_points(self.problem):
            self.enqueue(point)

    def enqueue_retry(self, hyperparameters: Hyperparameters, number: int) -> None:
        """Puts the point of a trial that was lost in front again."""
        params = encode(hyperparameters, self.problem.space)
        self._study.enqueue_trial(params, user_attrs={RETRY_OF: number})

    def should_prune(self, number: int, fraction: float, value: float | None) -> bool:
        """Reports the loss at a rung; True where the pruner, or a loss that is not finite, ends
        the trial.

        Args:
            fraction: share of the run.
            value: of the objective; None where it is not finite.
        """
        if value is None or not self.problem.rungs:
            return value is None
        trial = self._running[number]
        point = decode(trial.params, self.problem.space)
        try:
            trial.report(value, step=self.problem.rung(fraction, point))
        except optuna.exceptions.UpdateFinishedTrialError:  # another worker took the trial over
            return True
        return bool(trial.should_prune())

    def tell(
        self,
        number: int,
        outcome: Outcome,
        value: float | None,
        excess: float,
        record: TrialRecord | None = None,
    ) -> None:
        """Reports a trial's outcome to Optuna.

        Args:
            value: of the objective, if the trial is complete.
            excess: share by which the trial misses the memory budget; <= 0 where it fits.
            record: a dashboard shows it (`user_attributes`).
        """
        trial = self._running.pop(number, None) or self._reopened(number)
        for name, shown in user_attributes(record).items() if record is not None else ():
            trial.set_user_attr(name, shown)
        if outcome == "lost":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        own = {} if record is None else record_excess(self.problem.constraints, record)
        set_memory_constraint(trial, constraint_of(outcome, excess, own))
        for name, share in own.items():
            if name not in trial.constraints:
                trial.set_constraint(name, share)
        if outcome == "complete":
            self._study.tell(trial, value)
            return
        if outcome == "diverged":
            trial.set_user_attr(DIVERGED, True)
        if record is not None and (record.error or {}).get(SKIPPED):
            trial.set_user_attr(SKIPPED, True)
        # FAIL would teach nothing; PRUNED counts as worse than all that completed.
        self._study.tell(trial, state=TrialState.PRUNED)

    def _reopened(self, number: int) -> optuna.Trial:
        """A trial that an earlier process asked for."""
        storage = self._study._storage
        study_id = storage.get_study_id_from_name(self._study.study_name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return optuna.Trial(self._study, trial_id)

    def drop(self, number: int) -> None:
        """Withdraws a proposal that will not be run, a repetition for example."""
        self.tell(number, "lost", None, 0.0)

    def put_back(self, proposal: Proposal) -> None:
        """Withdraws a proposal that had waited, and lets it wait again behind the others."""
        self.drop(proposal.number)
        params = encode(proposal.hyperparameters, self.problem.space)
        attributes = {} if proposal.retry_of is None else {RETRY_OF: proposal.retry_of}
        self._study.enqueue_trial(params, user_attrs=attributes)

    def open_numbers(self) -> list[int]:
        """Numbers of trials that were asked for and never told."""
        return [t.number for t in self._study.get_trials(states=(TrialState.RUNNING,))]

    def enqueued_retries(self) -> set[int]:
        """Numbers of lost trials whose repetition waits or has run. One that failed has a record
        of its own, or was killed before it had one and counts for nothing."""
        trials = self._study.get_trials(deepcopy=False)
        alive = [t for t in trials if t.state != TrialState.FAIL]
        return {t.user_attrs[RETRY_OF] for t in alive if RETRY_OF in t.user_attrs}

    @property
    def trial_count(self) -> int:
        """Number of trials that were ever asked for or enqueued."""
        return len(self._study.get_trials(deepcopy=False))

    def learn(
        self,
        records: Sequence[TrialRecord],
        evaluations: Callable[[int], Sequence[Evaluation]] = lambda trial_id: (),
    ) -> None:
        """Fills a fresh Optuna study with recorded trials, numbers kept.

        Used when the space has changed or Optuna's tables were lost.

        Args:
            evaluations: evaluations of each trial, by the `id` of its record.
        """
        by_number = {record.number: record for record in records}
        for number in range(self.trial_count, max(by_number, default=-1) + 1):
            record = by_number.get(number)
            found = evaluations(record.id) if record is not None else ()
            self._study.add_trial(frozen_trial(record, found, self.problem))
        self._open_strategy()
