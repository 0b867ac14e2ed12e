"""The trials of `bench.gpu_trials`: the search over random points, and the same points by hand."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.gpu_trials.setup import STEPS, TOO_LONG, Bench, progress, ready_on_gpu
from bench.gpu_trials.table import TrialFigures
from vram_search.estimate import PlannedTrial
from vram_search.estimate.memory.predict import predict
from vram_search.estimate.planner import workload_of
from vram_search.gpu import GpuSample
from vram_search.protocol import AnyEvent, Finished, Probed
from vram_search.search import STRATEGIES, Problem, Proposal, Search, open_storage
from vram_search.search.gp.candidates import random_point
from vram_search.spec import Hyperparameters, MemoryPlan, SearchSpace
from vram_search.store import TrialRecord, open_store
from vram_search.store.location import database_url
from vram_search.units import format_bytes
from vram_search.worker.process import TrainingDiedError
from vram_search.worker.resident import ResidentTrainer
from vram_search.worker.result import load_seconds
from vram_search.worker.run import run_study
from vram_search.worker.stop_rule import StopRule

STEP_TOKENS = 8192
"""At most, in an optimizer step of a feasible point: 40 trials are to last minutes."""
FRESH_TRIALS = 2
Keep = Callable[[TrialFigures], None]
"""Takes each trial as it ends."""


class EnoughError(Exception):
    """The search has run all the bench wants of it."""


class Collector:
    """Listens to a search, and ends it after so many trials or at the deadline."""

    def __init__(self, trials: int, deadline: float, keep: Keep) -> None:
        self.trials, self.deadline, self.keep = trials, deadline, keep
        self.ended = 0

    def note(self, text: str) -> None:
        progress(text)

    def untuned_evaluated(self, eval_loss: float | None) -> None:
        """Nothing is shown of it."""

    def run_started(self, finished: int, best: TrialRecord | None) -> None:
        pass

    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None:
        pass

    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None:
        pass

    def others_running(self, trials: Sequence[TrialRecord]) -> None:
        pass

    def trial_ended(self, record: TrialRecord) -> None:
        self.ended += 1
        self.keep(TrialFigures.of(record))
        peak = format_bytes((record.measured or {}).get("allocated_bytes"))
        progress(f"on  {self.ended}/{self.trials} {record.outcome} {peak}")
        if self.ended >= self.trials or time.monotonic() > self.deadline:
            raise EnoughError


def random_points(space: SearchSpace, count: int, seed: int) -> list[Hyperparameters]:
    """Points drawn evenly from the space, those of more than STEP_TOKENS a step left out unless
    their cutoff is TOO_LONG."""
    drawn = random.Random(seed)
    points: list[Hyperparameters] = []
    while len(points) < count:
        point = random_point(space, drawn)
        if point.cutoff_len == TOO_LONG or point.batch_size * point.cutoff_len <= STEP_TOKENS:
            points.append(point)
    return points


def run_with_planner(
    bench: Bench, points: Sequence[Hyperparameters], deadline: float, keep: Keep
) -> None:
    """The search over these points, as `vram-search run` does it.

    Args:
        deadline: of `time.monotonic`; no trial is started after it.
        keep: takes each trial.
    """
    study = bench.study
    url = database_url(study.database)
    open_store(url, create=True).close()
    problem = Problem(study.space, study.training.rungs)
    with open_storage(url) as storage:
        strategy = STRATEGIES[study.strategy]
        search = Search(storage, study.study, 1, problem, strategy, study.seed)
        for point in points:
            search.enqueue(point)
    with contextlib.suppress(EnoughError):
        run_study(bench.prepared, StopRule(None), Collector(len(points), deadline, keep))


def plan_by_hand(hp: Hyperparameters) -> MemoryPlan:
    """The batch as micro-batch, gradient checkpointing, transformers' loss."""
    return MemoryPlan(
        per_device_train_batch_size=hp.batch_size,
        gradient_accumulation_steps=1,
        gradient_checkpointing=True,
    )


def run_without_planner(
    bench: Bench, points: Sequence[Hyperparameters], deadline: float, keep: Keep
) -> None:
    """Each point trained once under `plan_by_hand`, fit or not; the first FRESH_TRIALS in a process
    of their own."""
    trainer = bench.trainer(bench.study.search_space.cutoff_len)
    try:
        for number, hp in enumerate(points):
            if time.monotonic() > deadline:
                break
            trial = _train_by_hand(bench, trainer, number, hp)
            keep(trial)
            progress(f"off {number + 1}/{len(points)} {trial.outcome}")
    finally:
        trainer.replace()


def _train_by_hand(
    bench: Bench, trainer: ResidentTrainer, number: int, hp: Hyperparameters
) -> TrialFigures:
    began = time.monotonic()
    if number < FRESH_TRIALS:
        trainer.replace()
    ready_on_gpu(bench, trainer)
    start = load_seconds(trainer.ready(), time.monotonic() - began)
    plan = plan_by_hand(hp)
    probed: list[Probed] = []

    def listen(event: AnyEvent) -> None:
        if isinstance(event, Probed):
            probed.append(event)

    job = bench.trial_job(number, hp, plan, bench.study.training.max_steps or STEPS)
    try:
        finished = trainer.run(job, listen, lambda evaluated: False)
    except TrainingDiedError as error:
        trainer.replace()
        return _lost(number, hp, plan, start, str(error))
    workload = workload_of(bench.prepared.shape, hp, plan, bench.study.eval_cutoff_len)
    return TrialFigures(
        number,
        "diverged" if finished.outcome == "failed" else finished.outcome,
        hp.model_dump(mode="json"),
        plan.model_dump(mode="json"),
        predict(workload, bench.hardware).as_dict(),
        _measured(finished, probed),
        {**start, **finished.seconds},
        {"stage": finished.stage, "message": finished.message},
    )


def _lost(
    number: int, hp: Hyperparameters, plan: MemoryPlan, seconds: dict[str, float], why: str
) -> TrialFigures:
    return TrialFigures(
        number, "lost", hp.model_dump(), plan.model_dump(), seconds=seconds, error={"message": why}
    )


def _measured(finished: Finished, probed: Sequence[Probed]) -> dict[str, Any]:
    """Named as in the store's records."""
    measured: dict[str, Any] = {
        "allocated_bytes": finished.allocated_bytes,
        "reserved_bytes": finished.reserved_bytes,
        "leaked_bytes": finished.leaked_bytes,
        "base_intact": finished.base_intact,
    }
    for event in probed:
        measured |= {"probe_allocated_bytes": event.allocated_bytes, "parts": event.parts}
    return measured
