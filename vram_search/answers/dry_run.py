"""Answers `run --dry-run`: a study's first configurations, their plans and predicted bytes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vram_search.answers.base import Answer, AnswerPart
from vram_search.estimate.memory_budget import card_memory
from vram_search.estimate.night import NightForecast
from vram_search.worker.forecast import forecast_study
from vram_search.worker.parallel import AtOnce, predicted_at_once
from vram_search.worker.prepare import Prepared
from vram_search.worker.run import preview
from vram_search.worker.stop_rule import StopRule


class PredictedAnswer(AnswerPart):
    """Predicted bytes of one training."""

    allocated_bytes: int = Field(description="torch's max_memory_allocated.")
    reserved_bytes: int = Field(description="torch's max_memory_reserved on a roomy card.")
    required_bytes: int = Field(
        description="Smallest allocator limit under which the run completes."
    )
    process_bytes: int = Field(description="Bytes that NVML shows for the process.")
    moment: str = Field(description="The moment of the peak.")
    parts: dict[str, int] = Field(description="Bytes of the process by part.")


class PlannedAnswer(AnswerPart):
    """A configuration with the plan that a run would choose here."""

    hyperparameters: dict[str, Any] = Field(description="Named as in a study file.")
    plan: dict[str, Any] = Field(description="Named as in transformers' TrainingArguments.")
    predicted: PredictedAnswer
    predicted_step_seconds: float = Field(description="Seconds of an optimizer step.")
    fits: bool = Field(description="True if required bytes and margin are within the budget.")


class NightAnswer(AnswerPart):
    """The forecast of the search in its time."""

    full_trial_seconds: float = Field(description="Predicted seconds of a trial to its end.")
    seconds: float = Field(description="The time that is forecast.")
    full_trials: int
    stopped_trials: int = Field(description="Trials that are stopped early.")
    stopped_trials_least: int = Field(description="The fewest stopped trials to expect.")
    stopped_trials_most: int = Field(description="The most stopped trials to expect.")
    is_too_few: bool = Field(description="True below 12 trials.")


class AtOnceAnswer(AnswerPart):
    """Predicted gain of several trials at once on the study's card."""

    parallel_trials: int | str = Field(description="The study's own: a number, or `auto`.")
    auto: int = Field(description="How many `auto` would run, if the host has the cores.")
    gains: dict[int, float | None] = Field(
        description="Trials per hour, times those of one, by trials at once; null if they do not "
        "fit."
    )


class ModelAnswer(AnswerPart):
    """One of the base models of a study of several."""

    name: str
    parameters: int
    left_out: str = Field(description="Why it fits the card with no plan; empty if it may fit.")


class DryRunAnswer(Answer):
    """A study that was checked and planned, and not run."""

    study: dict[str, Any] = Field(description="The study file, with all defaults.")
    objective: str = Field(description="The figure by which trials are ranked.")
    models: list[ModelAnswer] = Field(
        description="Base models of a study that lists several, those that fit first; else empty."
    )
    data_hash: str = Field(description="Hash of the training and evaluation rows.")
    train_rows: int
    eval_rows: int
    budget_bytes: int = Field(description="Bytes that the allocator may take on the card.")
    night: NightAnswer | None = Field(
        description="Forecast for the study's card, or for the GPU here; null without a limit of "
        "time or trials."
    )
    at_once: AtOnceAnswer | None = Field(
        description="Of a study with `parallel_trials`; null if it runs one trial at a time."
    )
    priors: list[PlannedAnswer] = Field(
        description="Published configurations: tried first, or all if no trial starts with one."
    )


def night_answer(night: NightForecast | None) -> NightAnswer | None:
    """Builds the answer's forecast."""
    if night is None:
        return None
    return NightAnswer(
        full_trial_seconds=round(night.full_seconds, 1),
        seconds=round(night.seconds),
        full_trials=night.full,
        stopped_trials=night.stopped,
        stopped_trials_least=night.stopped_range[0],
        stopped_trials_most=night.stopped_range[1],
        is_too_few=night.is_too_few,
    )


def _at_once(found: AtOnce | None) -> AtOnceAnswer | None:
    if found is None:
        return None
    gains = {count: gain and round(gain, 2) for count, gain in sorted(found.gains.items())}
    return AtOnceAnswer(parallel_trials=found.wanted, auto=found.auto, gains=gains)


def dry_run(prepared: Prepared, stop: StopRule) -> DryRunAnswer:
    """Plans a study's published configurations as a run would here. Needs no GPU.

    Bytes and seconds are those of rows of cutoff_len tokens; a run counts its rows.
    """
    study, rows = prepared.study, prepared.rows
    return DryRunAnswer(
        study=study.model_dump(mode="json"),
        objective=study.ranked_by.name,
        models=[
            ModelAnswer(name=one.name or "", parameters=one.shape.parameters, left_out=one.left_out)
            for one in prepared.views
        ],
        data_hash=rows.data_hash,
        train_rows=len(rows.train),
        eval_rows=len(rows.eval),
        budget_bytes=card_memory(study.card).budget_bytes,
        night=night_answer(forecast_study(prepared, stop)),
        at_once=_at_once(predicted_at_once(prepared)),
        priors=[
            PlannedAnswer(
                hyperparameters=point,
                plan=planned.plan.model_dump(),
                predicted=PredictedAnswer.model_validate(planned.estimate.as_dict()),
                predicted_step_seconds=planned.step_seconds,
                fits=fits,
            )
            for point, planned, fits in preview(prepared, stop)
        ],
    )
