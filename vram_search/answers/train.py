"""Answers `train`: the runs of a trial that was trained again, their spread, and its rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vram_search.answers.plain import PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.report.seeds import SeedGroup, rank
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.losses import best_example_losses
from vram_search.store.product_runs import ProductRun, ProductSettings
from vram_search.store.untuned import untuned_loss
from vram_search.units import percent


@dataclass(frozen=True, kw_only=True)
class ProductRunAnswer(PlainPart):
    """One training of a trial after the search."""

    name: str = field(metadata=described("Name for other commands, such as `merge p3`."))
    trial: int = field(metadata=described("Trial whose hyperparameters it has."))
    seed: int
    outcome: str
    eval_loss: float | None = field(
        metadata=described("Nats per token, on the study's rows and tokens.")
    )
    eval_loss_step: int | None = field(metadata=described("Optimizer step of the best checkpoint."))
    steps: int = field(metadata=described("Optimizer steps of the whole run."))
    seconds: float
    allocated_bytes: int | None = field(metadata=described("Measured peak; null without a GPU."))
    required_bytes: int | None = field(metadata=described("Predicted for the study's card."))
    adapter: str | None = field(metadata=described("Folder of the adapter of the best checkpoint."))


@dataclass(frozen=True, kw_only=True)
class RankAnswer(PlainPart):
    """The trained trial against the trial in second place."""

    rival: int = field(metadata=described("Number of the other trial."))
    rival_mean: float = field(metadata=described("Mean eval_loss of its seeds, nats per token."))
    rival_seeds: int = field(metadata=described("Number of its seeds; 1: the search's own."))
    difference: float = field(
        metadata=described("Nats per token by which the rival's mean is higher.")
    )
    standard_error: float = field(
        metadata=described("Of the difference, by seeds and evaluation rows.")
    )
    probability: float = field(metadata=described("That the trained trial is the better one."))
    sentence: str


@dataclass(frozen=True, kw_only=True)
class TrainAnswer(StudyAnswer):
    """A trial trained again."""

    trial: int
    epochs: float | None = field(
        metadata=described("Epochs asked for; null: the study's full length.")
    )
    all_rows: bool = field(
        metadata=described("True if rows beyond `dataset.max_samples` were trained.")
    )
    runs: list[ProductRunAnswer]
    mean_eval_loss: float | None = field(
        metadata=described("Over the complete seeds; null for none.")
    )
    standard_deviation: float | None = field(
        metadata=described("Over the seeds; null for fewer than two.")
    )
    searched_eval_loss: float | None = field(metadata=described("Of the trial in the search."))
    untuned_eval_loss: float | None
    rank: RankAnswer | None = field(metadata=described("Null if the two are not comparable."))
    best: str | None = field(metadata=described("Name of the run with the lowest eval_loss."))


def train_answer(
    store: Store,
    study: StudyRecord,
    trial: TrialRecord,
    settings: ProductSettings,
    runs: Sequence[ProductRun],
    rival: TrialRecord | None,
) -> TrainAnswer:
    """Builds the answer.

    Args:
        runs: finished runs, of the trial and perhaps of its rival.
        rival: the trial in second place; None if there is none.
    """
    own = [run for run in runs if run.trial_number == trial.number]
    complete = [run for run in own if run.outcome == "complete" and run.eval_loss is not None]
    group = _group(complete)
    best = min(complete, key=lambda run: run.eval_loss or 0.0, default=None)
    return TrainAnswer(
        **study_fields(study),
        trial=trial.number,
        epochs=settings.epochs,
        all_rows=settings.all_rows,
        runs=[_run_answer(run) for run in runs],
        mean_eval_loss=group.mean if complete else None,
        standard_deviation=group.deviation,
        searched_eval_loss=trial.eval_loss,
        untuned_eval_loss=untuned_loss(store, study, trial),
        rank=_rank(store, study, group, settings, runs, rival) if complete and rival else None,
        best=best.name if best else None,
    )


def same_as_search(study: StudyRecord, settings: ProductSettings) -> bool:
    """True if product runs of these settings train as long and on the same rows as the search."""
    share = study.spec.get("training", {}).get("trial_share", 1.0)
    return settings.epochs is None and not settings.all_rows and share == 1.0


def _rank(
    store: Store,
    study: StudyRecord,
    group: SeedGroup,
    settings: ProductSettings,
    runs: Sequence[ProductRun],
    rival: TrialRecord,
) -> RankAnswer | None:
    trained = [
        run
        for run in runs
        if run.trial_number == rival.number and run.outcome == "complete" and run.eval_loss
    ]
    if trained:
        other = _group(trained)
    elif same_as_search(study, settings) and rival.eval_loss is not None:
        sums = best_example_losses(store, study.id).get(rival.number, ())
        other = SeedGroup([rival.eval_loss], [sums])
    else:
        return None
    found = rank(group, other)
    seeds = f"{len(trained)} seeds" if trained else "the seed of the search"
    sentence = (
        f"Trial {rival.number}, the second, has {other.mean:.4f} ({seeds}): "
        f"{found.difference:+.4f}, standard error {found.standard_error:.4f}; {found.words} "
        f"(probability {percent(found.probability)} for the winner)."
    )
    return RankAnswer(
        rival=rival.number,
        rival_mean=other.mean,
        rival_seeds=len(other.losses),
        difference=found.difference,
        standard_error=found.standard_error,
        probability=found.probability,
        sentence=sentence,
    )


def _group(runs: Sequence[ProductRun]) -> SeedGroup:
    return SeedGroup(
        [run.eval_loss or 0.0 for run in runs], [run.example_loss_sums for run in runs]
    )


def _run_answer(run: ProductRun) -> ProductRunAnswer:
    return ProductRunAnswer(
        name=run.name,
        trial=run.trial_number,
        seed=run.seed,
        outcome=run.outcome or "running",
        eval_loss=run.eval_loss,
        eval_loss_step=run.eval_loss_step,
        steps=run.steps_total,
        seconds=sum((run.seconds or {}).values()),
        allocated_bytes=(run.measured or {}).get("allocated_bytes"),
        required_bytes=(run.predicted or {}).get("required_bytes"),
        adapter=run.adapter_path,
    )
