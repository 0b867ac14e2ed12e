"""What to try next and when to prune: an Optuna study driven by ask and tell. Knows no GPU."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vram_search.search.encoding import decode, distributions, encode
from vram_search.search.shown import shown_attributes
from vram_search.spec import Hyperparameters, SearchSpace
from vram_search.store import Outcome, TrialRecord

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

BUSY_SECONDS = 30
"""How long a write waits for another process's; sqlite3 alone waits 5 s."""

_RETRY_OF = "retry_of"


@dataclass(frozen=True)
class Proposal:
    """A trial to run; `number` is Optuna's."""

    number: int
    hyperparameters: Hyperparameters
    retry_of: int | None


class Search:
    """The sampler's memory of one study, in the same database as our record.

    Args:
        url: SQLAlchemy URL of the database.
        study: the study's name.
        revision: counts the search space's changes; each has an Optuna study of its own, since
            Optuna refuses changed categories.
        rungs: shares of a run at which trials are compared.
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
            self._study.sampler = TPESampler(
                multivariate=True,
                n_startup_trials=RANDOM_TRIALS,
                # A continued study must not draw the same random points again.
                seed=seed + len(self._study.get_trials(deepcopy=False)),
            )
        self._running: dict[int, optuna.Trial] = {}

    def ask(self) -> Proposal:
        """The next point to try: enqueued ones first."""
        trial = self._study.ask(fixed_distributions=distributions(self.space))
        hyperparameters = decode(trial.params, self.space, self.alpha_ratio)
        self._running[trial.number] = trial
        return Proposal(trial.number, hyperparameters, trial.user_attrs.get(_RETRY_OF))

    def enqueue(self, hyperparameters: Hyperparameters) -> None:
        """Puts a point in front of what the sampler proposes, unless it was proposed before."""
        params = encode(hyperparameters, self.space)
        self._study.enqueue_trial(params, skip_if_exists=True)

    def enqueue_retry(self, hyperparameters: Hyperparameters, lost_number: int) -> None:
        """Puts a lost trial's point in front again."""
        params = encode(hyperparameters, self.space)
        self._study.enqueue_trial(params, user_attrs={_RETRY_OF: lost_number})

    def should_prune(self, number: int, fraction: float, eval_loss: float | None) -> bool:
        """Reports the loss at a rung; True where the trial is behind the others there."""
        if eval_loss is None or not self.rungs:
            return eval_loss is None
        rung = min(range(len(self.rungs)), key=lambda i: abs(self.rungs[i] - fraction))
        trial = self._running[number]
        trial.report(eval_loss, step=rung)
        return bool(trial.should_prune())

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
            record: what a dashboard shows of the trial (`shown_attributes`).
        """
        trial = self._running.pop(number, None) or self._reopened(number)
        for name, value in shown_attributes(record).items() if record is not None else ():
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

    def learn(self, records: Sequence[TrialRecord]) -> None:
        """Fills a fresh Optuna study with recorded trials, numbers kept.

        Used when the space has changed or Optuna's tables were lost. What lies outside the space,
        and numbers that were never recorded, become failed trials that teach nothing.
        """
        by_number = {record.number: record for record in records}
        for number in range(self.trial_count, max(by_number, default=-1) + 1):
            self._study.add_trial(self._frozen(by_number.get(number)))

    def _frozen(self, record: TrialRecord | None) -> FrozenTrial:
        unknown: FrozenTrial = optuna.trial.create_trial(state=TrialState.FAIL)
        if record is None or record.outcome in (None, "lost"):
            return unknown
        hyperparameters = Hyperparameters.model_validate(record.hyperparameters)
        if not self.space.contains(hyperparameters):
            return unknown
        assert record.outcome is not None
        complete = record.outcome == "complete" and record.eval_loss is not None
        constraint = _constraint(record.outcome, (record.predicted or {}).get("excess", 0.0))
        trial: FrozenTrial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            value=record.eval_loss if complete else None,
            params=encode(hyperparameters, self.space),
            distributions=distributions(self.space),
            user_attrs=shown_attributes(record),
            system_attrs={DASHBOARD_CONSTRAINTS: [constraint]},
        )
        trial.set_constraint(MEMORY_CONSTRAINT, constraint)
        return trial


def patience(url: str) -> dict[str, Any]:
    """SQLAlchemy's engine arguments with which a connection waits for another process's write."""
    return {"connect_args": {"timeout": BUSY_SECONDS} if url.startswith("sqlite") else {}}


def _constraint(outcome: Outcome, excess: float) -> float:
    if outcome in ("oom", "infeasible"):
        return max(excess, OOM_EXCESS)
    return min(excess, 0.0) if math.isfinite(excess) else 0.0
