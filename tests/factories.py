"""Objects that many tests need; a test names only the values that it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.tiny import HYPERPARAMETERS as HYPERPARAMETERS
from bench.tiny import PLAN as PLAN
from vram_search.protocol import (
    AnyEvent,
    BaseEvaluated,
    EvaluateBaseJob,
    Evaluated,
    Finished,
    Ready,
    TrialJob,
)
from vram_search.spec import Hyperparameters, MemoryPlan, SearchSpace
from vram_search.spec.hyperparameters import DEFAULT_ALPHA
from vram_search.spec.study import TrainingSpec
from vram_search.worker.trial import begin_trial, run_trial

if TYPE_CHECKING:
    from vram_search.estimate import PlannedTrial
    from vram_search.gpu import GpuSample
    from vram_search.search import Proposal
    from vram_search.store import TrialRecord
    from vram_search.worker.context import RunContext

NEWER_TABLES = (
    *("vs_samples", "vs_untuned_models", "vs_events", "vs_progress", "vs_queue"),
    *("vs_product_runs", "vs_runs", "vs_outbox", "vs_workers"),
)
"""Tables that databases of before migration 0004 lack, children first."""
NEWER_COLUMNS = ("resumed_step", "objective", "objective_value", "worker_id", "host")
"""Columns of vs_trials that databases of before migration 0004 lack."""
NEWER_EVALUATION_COLUMNS = ("answer_error", "answer_errors")
"""Columns of vs_evaluations that databases of before migration 0004 lack."""

Script = Sequence[AnyEvent | Callable[[], object]]
"""The events of one trial. Functions in between are called at that moment."""


def make_point(**changes: Any) -> Hyperparameters:
    """Builds the hyperparameters of one trial; lora_alpha follows the rank unless it is given."""
    values: dict[str, Any] = {
        "optim": "adamw_8bit",
        "lora_target": "all",
        "lora_rank": 16,
        "cutoff_len": 512,
        "batch_size": 8,
        "learning_rate": 1e-4,
        **changes,
    }
    values.setdefault("lora_alpha", DEFAULT_ALPHA.of(values["lora_rank"]))
    return Hyperparameters(**values)


def make_space(**parts: Any) -> SearchSpace:
    """Builds a search space from parts as a study file writes them: lists, mappings, values."""
    return SearchSpace.model_validate(parts)


def make_ready(**changes: Any) -> Ready:
    """Builds the message of a training process that has loaded its base model on a card."""
    values: dict[str, Any] = {
        "device": "a card",
        "has_gpu": True,
        "versions": {},
        "train_rows": 8,
        "eval_rows": 4,
        "longest_tokens": 256,
        "longest_eval_tokens": 256,
        "rows_cut": 0,
        "data_hash": "d1",
        "allocated_bytes": 1,
        "seconds": 1,
        **changes,
    }
    return Ready(**values)


def make_trial_job(**changes: Any) -> TrialJob:
    """Builds a job of one optimizer step."""
    values: dict[str, Any] = {
        "number": 0,
        "hyperparameters": make_point(),
        "target_modules": ("q_proj",),
        "plan": MemoryPlan(
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing=False,
        ),
        "training": TrainingSpec(max_steps=1),
        "eval_cutoff_len": 64,
        "seed": 1,
        "adapter_folder": "none",
        **changes,
    }
    return TrialJob(**values)


PRUNED = Finished(outcome="pruned", stage="train", step=1, steps_total=1)
"""The end of a trial that is pruned at once."""

EVALUATED = Evaluated(
    step=9,
    fraction=1.0,
    is_rung=False,
    eval_loss=1.5,
    own_cutoff_eval_loss=1.6,
    bits_per_byte=0.7,
    example_loss_sums=(),
    seconds=1,
)
"""The last evaluation of a trial."""


class FakeTrainer:
    """Replaces the training process: answers every trial with events that are written down.

    Args:
        scripts: one for each training that is started.
        ready: the answer once the base model is loaded.
    """

    def __init__(self, scripts: Iterable[Script], ready: Ready, pid: int | None = None) -> None:
        self._scripts, self._ready = iter(scripts), ready
        self.pid, self.log = pid, Path("none")
        self.jobs: list[TrialJob] = []
        self.on_job: Callable[[TrialJob], object] = lambda job: None
        self.restarts = 0
        self.refused_liger = ""

    def ready(self) -> Ready:
        return self._ready

    def run(self, job: TrialJob, on_event: Callable[[AnyEvent], None], prune: object) -> Finished:
        self.jobs.append(job)
        self.on_job(job)
        for event in next(self._scripts):
            if callable(event):
                event()
                continue
            on_event(event)
            if isinstance(event, Finished):
                return event
        raise AssertionError("a script ends with Finished, unless the supervisor ends it")

    def answer(self, job: EvaluateBaseJob) -> BaseEvaluated:
        return BaseEvaluated(eval_loss=2.5, bits_per_byte=1.0, example_loss_sums=(), seconds=1.0)

    def restart(self) -> None:
        self.restarts += 1

    def replace(self) -> None:
        """There is no process to end."""


def run_proposal(context: RunContext, proposal: Proposal) -> TrialRecord:
    """Runs a proposal as a trial from its beginning to its end."""
    return run_trial(context, proposal, begin_trial(context, proposal))


class FakeListener:
    """Receives the events of a run and keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def run_started(self, finished: int, best: TrialRecord | None) -> None: ...
    def untuned_evaluated(self, eval_loss: float | None) -> None: ...
    def trial_started(self, proposal: Proposal, planned: PlannedTrial) -> None: ...
    def trial_event(self, event: AnyEvent, sample: GpuSample | None) -> None: ...
    def others_running(self, trials: Sequence[TrialRecord]) -> None: ...
    def trial_ended(self, record: TrialRecord) -> None: ...
