"""The data of a report, read from the store once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vram_search.estimate.memory_budget import card_memory
from vram_search.report.figures import comparable, ranked
from vram_search.report.importance import Importance, importances
from vram_search.report.night import NightSummary, summarise
from vram_search.report.pareto import pareto_front
from vram_search.report.stopped_usual import with_stopped_usual
from vram_search.report.sweet_spot import SweetSpot
from vram_search.report.winner import Winner, judge_winner
from vram_search.search.study_constraints import best_trials, keeping_constraints
from vram_search.spec.card import Card
from vram_search.store import Evaluation, StepLoss, Store, StudyRecord, TrialRecord
from vram_search.store.losses import all_evaluations, best_example_losses
from vram_search.store.runs import latest_run
from vram_search.store.untuned import Sample, recorded_samples, untuned_loss


@dataclass(frozen=True)
class StudyBest:
    """A study of the database with its best trial; of imported runs, a model's best."""

    study: StudyRecord
    trial: TrialRecord

    @property
    def name(self) -> str:
        """Name of the study, or of the imported run."""
        return str((self.trial.provenance or {}).get("run", self.study.name))

    @property
    def model(self) -> str:
        return str(self._model.get("name", "unknown"))

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the base model."""
        return self._model.get("parameters")

    @property
    def _model(self) -> dict[str, Any]:
        own: dict[str, Any] = (self.trial.provenance or {}).get("model", self.study.model)
        return own


@dataclass(frozen=True)
class ReportData:
    """A study with everything that its report shows.

    Attributes:
        evaluations: by trial number, without losses per example.
        step_losses: losses of each step of the highlighted trials, by number.
        bests: the best trial of each study in the database with a complete trial; imported runs of
            several models have one best trial for each model.
    """

    study: StudyRecord
    trials: Sequence[TrialRecord]
    evaluations: dict[int, list[Evaluation]]
    step_losses: dict[int, list[StepLoss]]
    bests: Sequence[StudyBest]
    winner: Winner | None
    samples: Sequence[Sample] = ()
    """Answers of the untuned model and the best trial, if `samples` wrote some."""
    night: NightSummary | None = None
    """The latest run; None if an older version made it."""

    @property
    def sweet_spot(self) -> SweetSpot | None:
        return self.winner.spot if self.winner else None

    @property
    def best(self) -> TrialRecord | None:
        return self.sweet_spot.best if self.sweet_spot else None

    @cached_property
    def ranked(self) -> list[TrialRecord]:
        """The complete trials that compare, lowest eval_loss first, as `top` lists them."""
        return [rival.trial for rival in self.sweet_spot.ranked] if self.sweet_spot else []

    @cached_property
    def front(self) -> list[TrialRecord]:
        return pareto_front(self.ranked)

    @cached_property
    def importances(self) -> list[Importance]:
        return importances(self.ranked)

    @property
    def limit_bytes(self) -> int | None:
        """The allocator's budget by which the last plan was judged, else that of the next plan."""
        for trial in reversed(self.trials):
            if budget := (trial.predicted or {}).get("budget_bytes"):
                return int(budget)
        if not self.study.card.get("total_bytes"):
            return None
        return card_memory(Card.model_validate(self.study.card)).budget_bytes

    @cached_property
    def loss_ceiling(self) -> float:
        """Losses above it are drawn at the edge: an outlier must not flatten the others."""
        losses = sorted(trial.value or 0.0 for trial in comparable(self.trials))
        if not losses:
            return 1.0
        quarter, middle = losses[len(losses) // 4], losses[len(losses) // 2]
        upper = losses[3 * (len(losses) - 1) // 4]
        return min(losses[-1], upper + 3 * max(upper - quarter, middle - losses[0]) + 1e-9)


def load_report_data(store: Store, study: StudyRecord) -> ReportData:
    """Reads a study's trials and curves, and the best trial of every other study."""
    trials = store.trials(study.id)
    winner = judge_winner(
        keeping_constraints(study, trials),
        best_example_losses(store, study.id),
        untuned_loss(store, study, next(iter(ranked(trials)), None)),
        is_comparable=not study.is_imported,
    )
    winner = winner and with_stopped_usual(store, study, winner, trials)
    spot = winner.spot if winner else None
    run = latest_run(store, study.id)
    shown = {trial.number: trial for trial in (spot.best, spot.trial)} if spot else {}
    bests = []
    for other in store.studies():
        if other.is_imported:
            bests += _best_by_model(store, other)
        elif top := best_trials(store, other, limit=1):
            bests.append(StudyBest(other, top[0]))
    return ReportData(
        study=study,
        trials=trials,
        evaluations=all_evaluations(store, study.id),
        step_losses={number: store.step_losses(t.id) for number, t in shown.items()},
        bests=bests,
        winner=winner,
        samples=recorded_samples(store, spot.best.id) if spot else (),
        night=None
        if run is None
        else summarise(
            run, [t for t in trials if t.number >= run.first_trial], study.ranked_by.name
        ),
    )


def _best_by_model(store: Store, study: StudyRecord) -> list[StudyBest]:
    runs = sorted(comparable(store.trials(study.id)), key=lambda run: run.value or 0.0)
    found: dict[str, StudyBest] = {}
    for best in (StudyBest(study, run) for run in runs):
        found.setdefault(best.model, best)
    return list(found.values())


def names_of(data: ReportData, trial: TrialRecord) -> str:
    """ "trial 7 (best)"."""
    roles: list[Any] = []
    if data.sweet_spot is not None:
        roles += ["best"] if trial.number == data.sweet_spot.best.number else []
        roles += ["sweet spot"] if trial.number == data.sweet_spot.trial.number else []
    return f"trial {trial.number}" + (f" ({', '.join(roles)})" if roles else "")
