"""What to try next and when to prune: an Optuna study driven by ask and tell. Knows no GPU."""

from __future__ import annotations

import logging
import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from vram_search.search.encoding import decode, distributions, encode
from vram_search.search.gp.candidates import candidates
from vram_search.search.gp.strategy import Fits, GpStrategy
from vram_search.search.gp.surrogate import Task
from vram_search.search.observations import Observation, merge_observations
from vram_search.search.user_attributes import user_attributes
from vram_search.spec import Hyperparameters, SearchSpace, Strategy
from vram_search.store import Evaluation, Outcome, TrialRecord

MEMORY_CONSTRAINT = "required_bytes over budget"
"""Set on every trial: by which share it misses the budget; feasible up to 0."""
DASHBOARD_CONSTRAINTS = "constraints"
"""System attribute of the same figure in a list: Optuna's older form, and the only one that
optuna-dashboard 0.21 reads (_serializer.py, CONSTRAINTS_KEY). Optuna names its entry "0"."""
OOM_EXCESS = 0.01
"""The excess told for a trial that was predicted to fit and did not."""

RANDOM_TRIALS = 5
"""Trials before TPE's model is used; the priors count."""
TRIALS_BEFORE_PRUNING = 3
PRUNED_SHARE = 50.0
"""Per cent pruned at a rung: on real curves the better half at 1/9 of a run keeps all of the five
best (docs/experiments.md)."""

ONE_THREAD = {"limits": 1, "user_api": "blas"}
"""For `gp`, whose matrices are small: on busy cores BLAS's threads wait for each other, for seconds
(docs/experiments.md)."""

BUSY_SECONDS = 30
"""How long a write waits for another process's; sqlite3 alone waits 5 s."""

_RETRY_OF = "retry_of"
_DIVERGED = "diverged"
SHOWING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of trials that show something of their point; a failed one shows nothing."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `number` is Optuna's.

    Attributes:
        retry_of: the trial with the same point that was lost, or stopped too early.
        was_enqueued: whether it waited in line, and is not what the sampler proposes now.
        gain: share by which one more run is expected to lower the best eval_loss; None where the
            strategy does not know, or was not asked.
    """

    number: int
    hyperparameters: Hyperparameters
    retry_of: int | None
    was_enqueued: bool
    gain: float | None


class Search:
    """The sampler's memory of one study, in the same database as our record.

    Args:
        url: SQLAlchemy URL of the database.
        study: the study's name.
        revision: counts the search space's changes; each has an Optuna study of its own, since
            Optuna refuses changed categories.
        rungs: shares of a run at which trials are compared.
        strategy: `gp` is our own (`advisor`); `tpe` and `random` are Optuna's, with its pruner.
        tasks: what `gp` knows of earlier searches.
        opening: points that `gp` begins with.
    """

    def __init__(
        self,
        url: str,
        study: str,
        revision: int,
        space: SearchSpace,
        alpha_ratio: int,
        rungs: Sequence[float],
        seed: int,
        *,
        strategy: Strategy = "gp",
        tasks: Sequence[Task] = (),
        opening: Sequence[Hyperparameters] = (),
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.space, self.alpha_ratio, self.rungs = space, alpha_ratio, tuple(rungs)
        self._storage = RDBStorage(url, engine_kwargs=patience(url))
        name = study if revision == 1 else f"{study}@{revision}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                direction="minimize",
                load_if_exists=True,
                pruner=optuna.pruners.PercentilePruner(
                    100 - PRUNED_SHARE, n_startup_trials=TRIALS_BEFORE_PRUNING
                ),
            )
            self._study.set_metric_names(["eval_loss"])
            # A continued study must not draw the same random points again.
            fresh_seed = seed + len(self._study.get_trials(deepcopy=False))
            self._study.sampler = _sampler(strategy, fresh_seed)
        self._draw = random.Random(fresh_seed)
        self._drawn = space
        self._advisor = GpStrategy(space, self.rungs, tasks, opening) if strategy == "gp" else None
        self._running: dict[int, optuna.Trial] = {}

    def ask(
        self,
        fits: Fits = lambda point: True,
        points: Sequence[Hyperparameters] | None = None,
    ) -> Proposal:
        """The next point to try: enqueued ones first.

        Args:
            fits: whether a point fits the card; one that does not is proposed where none does.
            points: `gp` chooses among these instead of the whole space.
        """
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        gain = None
        if self._advisor is not None and not waiting:
            gain = self._advise(self._advisor, fits, points)
        trial = self._study.ask(fixed_distributions=distributions(self.space))
        hyperparameters = decode(trial.params, self.space, self.alpha_ratio)
        self._running[trial.number] = trial
        retry_of = trial.user_attrs.get(_RETRY_OF)
        return Proposal(trial.number, hyperparameters, retry_of, bool(waiting), gain)

    def _advise(
        self, advisor: GpStrategy, fits: Fits, points: Sequence[Hyperparameters] | None
    ) -> float | None:
        """Enqueues what the advisor proposes; returns the gain that it expects."""
        seen = merge_observations(self._shown())
        with threadpool_limits(**ONE_THREAD):
            advice = advisor.propose(seen, self._choice(seen, points), fits)
        if isinstance(advice.choice, Observation):
            self.enqueue_retry(advice.choice.hyperparameters, advice.choice.number)
        elif advice.choice is not None:
            self._study.enqueue_trial(encode(advice.choice, self.space))
        return advice.gain

    def leave_out_above(self, cutoff_len: int) -> None:
        """No row is cut at `cutoff_len`, so a larger one would train the same: `gp` draws none."""
        kept = tuple(c for c in self.space.cutoff_len if c <= cutoff_len)
        self._drawn = self.space.model_copy(update={"cutoff_len": kept})

    def _choice(
        self, seen: Sequence[Observation], points: Sequence[Hyperparameters] | None
    ) -> Sequence[Hyperparameters]:
        """The points given, or new ones of the whole space."""
        if points is not None:
            return points
        return candidates(self._drawn, self.alpha_ratio, seen, self._draw)

    def _shown(self) -> list[Observation]:
        """What every trial has shown so far, the running one included."""
        trials = self._study.get_trials(deepcopy=False)
        return [self._as_seen(trial) for trial in trials if trial.state in SHOWING]

    def _as_seen(self, trial: FrozenTrial) -> Observation:
        losses = [trial.intermediate_values.get(rung) for rung in range(len(self.rungs))]
        known = tuple(loss for loss in losses if loss is not None and math.isfinite(loss))
        return Observation(
            trial.number,
            decode(trial.params, self.space, self.alpha_ratio),
            known,
            trial.value if trial.state == TrialState.COMPLETE else None,
            diverged=_DIVERGED in trial.user_attrs,
            fits=trial.constraints.get(MEMORY_CONSTRAINT, 0.0) <= 0,
        )

    def enqueue(self, hyperparameters: Hyperparameters) -> None:
        """Puts a point in front of what the sampler proposes, unless it was proposed before."""
        params = encode(hyperparameters, self.space)
        self._study.enqueue_trial(params, skip_if_exists=True)

    def enqueue_retry(self, hyperparameters: Hyperparameters, number: int) -> None:
        """Puts the point of a trial that was lost, or stopped too early, in front again."""
        params = encode(hyperparameters, self.space)
        self._study.enqueue_trial(params, user_attrs={_RETRY_OF: number})

    def should_prune(
        self,
        number: int,
        fraction: float,
        eval_loss: float | None,
        fits: Fits = lambda point: True,
        points: Sequence[Hyperparameters] | None = None,
    ) -> bool:
        """Reports the loss at a rung; True where the time is better used otherwise.

        Args:
            fits: whether a point fits the card; the time is not saved for one that does not.
            points: what else could be tried; None: the whole space.
        """
        if eval_loss is None or not self.rungs:
            return eval_loss is None
        rung = self._rung(fraction)
        trial = self._running[number]
        trial.report(eval_loss, step=rung)
        if self._advisor is None:
            return bool(trial.should_prune())
        trials = self._shown()
        point = next(one.hyperparameters for one in trials if one.number == number)
        earlier = [t for t in trials if t.hyperparameters == point and t.number != number]
        if any(len(one.losses) > rung for one in earlier):
            return False  # it began anew to get further than this
        seen = merge_observations(trials)
        with threadpool_limits(**ONE_THREAD):
            return not self._advisor.should_continue(seen, number, self._choice(seen, points), fits)

    def tell(
        self,
        number: int,
        outcome: Outcome,
        eval_loss: float | None,
        excess: float,
        record: TrialRecord | None = None,
    ) -> None:
        """Teaches the sampler a trial's outcome.

        Args:
            excess: share by which the trial misses the memory budget; <= 0 where it fits.
            record: what a dashboard shows of the trial (`user_attributes`).
        """
        trial = self._running.pop(number, None) or self._reopened(number)
        for name, value in user_attributes(record).items() if record is not None else ():
            trial.set_user_attr(name, value)
        if outcome == "lost":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        if MEMORY_CONSTRAINT not in trial.constraints:
            constraint = _constraint(outcome, excess)
            self._storage.set_trial_system_attr(
                trial._trial_id, DASHBOARD_CONSTRAINTS, [constraint]
            )
            trial.set_constraint(MEMORY_CONSTRAINT, constraint)
        if outcome == "complete":
            self._study.tell(trial, eval_loss)
        else:
            # FAIL would teach nothing; PRUNED counts as worse than all that completed.
            if outcome == "diverged":
                trial.set_user_attr(_DIVERGED, True)
            self._study.tell(trial, state=TrialState.PRUNED)

    def _reopened(self, number: int) -> optuna.Trial:
        """A trial that an earlier process asked for."""
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        return optuna.Trial(self._study, trial_id)

    def close(self) -> None:
        """Closes the database's connections."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def drop(self, number: int) -> None:
        """Withdraws a proposal that will not be run, a repetition for example."""
        self.tell(number, "lost", None, 0.0)

    def open_numbers(self) -> list[int]:
        """Trials that were asked for and never told."""
        return [t.number for t in self._study.get_trials(states=(TrialState.RUNNING,))]

    def enqueued_retries(self) -> set[int]:
        """Numbers of lost trials whose repetition waits or has run. One that failed has a record
        of its own, or was killed before it had one and counts for nothing."""
        trials = self._study.get_trials(deepcopy=False)
        alive = [t for t in trials if t.state != TrialState.FAIL]
        return {t.user_attrs[_RETRY_OF] for t in alive if _RETRY_OF in t.user_attrs}

    @property
    def trial_count(self) -> int:
        """All that was ever asked for or enqueued."""
        return len(self._study.get_trials(deepcopy=False))

    def _rung(self, fraction: float) -> int:
        """Place of the rung that is nearest to this share of a run."""
        return min(range(len(self.rungs)), key=lambda i: abs(self.rungs[i] - fraction))

    def learn(
        self,
        records: Sequence[TrialRecord],
        evaluations: Callable[[int], Sequence[Evaluation]] = lambda trial_id: (),
    ) -> None:
        """Fills a fresh Optuna study with recorded trials, numbers kept.

        Used when the space has changed or Optuna's tables were lost. What lies outside the space,
        and numbers that were never recorded, become failed trials that teach nothing.

        Args:
            evaluations: of a trial, by its record's `id`: its losses at the rungs.
        """
        by_number = {record.number: record for record in records}
        for number in range(self.trial_count, max(by_number, default=-1) + 1):
            record = by_number.get(number)
            found = evaluations(record.id) if record is not None else ()
            self._study.add_trial(self._frozen(record, self._rung_losses(found)))

    def _rung_losses(self, found: Sequence[Evaluation]) -> dict[int, float]:
        """By rung; a run's end is none."""
        return {
            self._rung(one.fraction): one.eval_loss
            for one in found
            if one.eval_loss is not None and one.fraction < 1 and self.rungs
        }

    def _frozen(self, record: TrialRecord | None, losses: dict[int, float]) -> FrozenTrial:
        unknown: FrozenTrial = optuna.trial.create_trial(state=TrialState.FAIL)
        if record is None or record.outcome in (None, "lost"):
            return unknown
        hyperparameters = Hyperparameters.model_validate(record.hyperparameters)
        if not self.space.contains(hyperparameters):
            return unknown
        assert record.outcome is not None
        complete = record.outcome == "complete" and record.eval_loss is not None
        constraint = _constraint(record.outcome, (record.predicted or {}).get("excess", 0.0))
        diverged = {_DIVERGED: True} if record.outcome == "diverged" else {}
        trial: FrozenTrial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=record.eval_loss if complete else None,
            params=encode(hyperparameters, self.space),
            distributions=distributions(self.space),
            user_attrs={**user_attributes(record), **diverged},
            system_attrs={DASHBOARD_CONSTRAINTS: [constraint]},
            intermediate_values=losses,
        )
        trial.set_constraint(MEMORY_CONSTRAINT, constraint)
        return trial


def _sampler(strategy: Strategy, seed: int) -> BaseSampler:
    """Optuna's; our own strategy enqueues every point."""
    if strategy == "tpe":
        return TPESampler(multivariate=True, n_startup_trials=RANDOM_TRIALS, seed=seed)
    return RandomSampler(seed)


def patience(url: str) -> dict[str, Any]:
    """SQLAlchemy's engine arguments with which a connection waits for another process's write."""
    return {"connect_args": {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}}


def _constraint(outcome: Outcome, excess: float) -> float:
    if outcome in ("oom", "infeasible"):
        return max(excess, OOM_EXCESS)
    return min(excess, 0.0) if math.isfinite(excess) else 0.0
