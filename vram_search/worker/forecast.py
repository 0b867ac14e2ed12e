"""Forecasts a study's night before its first trial, and shortens its trials so that enough fit."""

from __future__ import annotations

import contextlib
import math
import statistics
from dataclasses import replace

from vram_search.errors import InputError, NothingStoredError
from vram_search.estimate import PlannedTrial
from vram_search.estimate.night import (
    ENOUGH_TRIALS,
    NightForecast,
    forecast_night,
    seconds_of,
    share_that_fits,
    trial_seconds,
)
from vram_search.estimate.step_time import padded_tokens
from vram_search.spec import Hyperparameters, StudySpec
from vram_search.spec.steps import count_steps
from vram_search.store import open_store
from vram_search.store.location import database_url
from vram_search.worker.base_models import guessed_loading
from vram_search.worker.prepare import Prepared
from vram_search.worker.run import preview
from vram_search.worker.sequences import sequences_an_epoch
from vram_search.worker.stop_rule import StopRule

_SHORTEST_SHARE = 0.05


def forecast_study(prepared: Prepared, stop: StopRule) -> NightForecast | None:
    """Forecasts a search's trials by the predicted steps of its first configuration.

    Loading the base models of a study of several takes its part of the time.

    Returns:
        None if the search has no limit, or its first configuration fits no plan.
    """
    full = full_trial_seconds(prepared, stop)
    if full is None:
        return None
    loading = guessed_loading(prepared)
    if (left := stop.seconds_left) is not None:
        seconds = max(0.0, left)
    elif stop.trials is not None:
        seconds = seconds_of(stop.trials, full) + loading
    else:
        return None
    found = forecast_night(full, max(0.0, seconds - loading))
    return replace(found, seconds=seconds)


def full_trial_seconds(prepared: Prepared, stop: StopRule) -> float | None:
    """Predicts the seconds of a full trial of the first configuration that fits.

    With several base models it is the mean over the models of which something fits: nobody knows
    before the first trial which of them gets most trials.
    """
    first: dict[object, float] = {}
    for point, planned, fits in preview(prepared, stop):
        model = point.get("model")
        if fits and model not in first:
            first[model] = _trial_seconds(prepared.of(point), point, planned)
    return statistics.fmean(first.values()) if first else None


def _trial_seconds(prepared: Prepared, values: dict[str, object], planned: PlannedTrial) -> float:
    study, rows, plan = prepared.study, prepared.rows, planned.plan
    point = Hyperparameters.model_validate(values)
    training = study.training_of(point)
    return trial_seconds(
        planned.step_seconds * (1.0 if point.packing else _filled_share(prepared, planned)),
        count_steps(training, plan, sequences_an_epoch(point, prepared.row_tokens)),
        plan.per_device_train_batch_size * plan.gradient_accumulation_steps,
        len(rows.eval),
        len(training.rungs) + 1,
    )


def _filled_share(prepared: Prepared, planned: PlannedTrial) -> float:
    """Tokens of a row in a micro-batch, as a share of the cutoff that the plan counts with."""
    plan, cutoff_len = planned.plan, planned.estimate.workload.cutoff_len
    micro_batch = plan.per_device_train_batch_size
    batch_size = micro_batch * plan.gradient_accumulation_steps
    longest_first = sorted(prepared.row_tokens, reverse=True)
    return padded_tokens(longest_first, cutoff_len, batch_size, micro_batch) / cutoff_len


def fit_night(prepared: Prepared, stop: StopRule) -> Prepared:
    """Shortens the trials so that a search's time holds ENOUGH_TRIALS of them.

    A study that was shortened before keeps its share, so that its losses stay comparable.

    Raises:
        InputError: the search has no limit of time, or nothing fits the card.
    """
    seconds, full = stop.seconds_left, full_trial_seconds(prepared, stop)
    if seconds is None:
        raise InputError("--fit-night needs a limit of time", "add --hours 8 or --until 07:00")
    if full is None:
        raise InputError("no configuration fits the card", "see `vram-search run --dry-run`")
    share = _recorded_share(prepared.study)
    if share is None:
        loading = guessed_loading(prepared)
        share = max(
            _SHORTEST_SHARE,
            math.floor(share_that_fits(ENOUGH_TRIALS, full, seconds - loading) * 100) / 100,
        )
    training = prepared.study.training.model_copy(update={"trial_share": share})
    return replace(prepared, study=prepared.study.model_copy(update={"training": training}))


def _recorded_share(study: StudySpec) -> float | None:
    try:
        opened = open_store(database_url(study.database), create=False)
    except NothingStoredError:
        return None
    with contextlib.closing(opened) as store:
        record = store.study(study.study)
        if record is None or not store.trials(record.id):
            return None
        return float(record.spec.get("training", {}).get("trial_share", 1.0))
