"""The context that all trials of a run share: study, record, training process and card."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from vram_search.estimate import PlannedTrial, choose_plan, plans
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory_budget import MemoryBudget
from vram_search.estimate.planner import Longest, decide_liger
from vram_search.estimate.step_time import StepTimeModel
from vram_search.gpu import open_reader
from vram_search.protocol import LoadJob, Ready
from vram_search.search import Search
from vram_search.spec import Hyperparameters, StudySpec
from vram_search.spec.base_storage import predicted_storage
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.spec.plan import PlanPins
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.kept_files import delete_kept
from vram_search.store.location import StudyFolder, trial_folder
from vram_search.store.turn import study_turn
from vram_search.worker.budget import Budget
from vram_search.worker.checkpoints import remove_unneeded_checkpoints
from vram_search.worker.constraints import broken
from vram_search.worker.identity import IdentityCheck
from vram_search.worker.lease import Lease
from vram_search.worker.listener import RunListener
from vram_search.worker.prepare import Prepared
from vram_search.worker.resident import ResidentTrainer

_ADAPTER = re.compile(r"trial-\d{4,}(\.new|\.old)?")


@dataclass
class RunContext:
    """The state that all trials of one run share."""

    prepared: Prepared
    store: Store
    record: StudyRecord
    search: Search
    trainer: ResidentTrainer
    listener: RunListener
    budget: Budget
    margin: float
    """Share by which predicted required bytes are raised (`learnt_margin`)."""
    adapters: Path
    pins: PlanPins
    """The study's pins, with the use of Liger decided."""
    lease: Lease
    """This process among the workers of the study."""
    step_time: StepTimeModel | None = None
    """Step times of the device, corrected by its trials (`learnt_step_time`)."""
    row_tokens: Sequence[int] = ()
    """Approximate lengths of the training rows in tokens."""
    longest: Longest | None = None
    """The longest rows; None until the training process has counted them."""
    hardware: Hardware | None = None
    """The card's figures as this device emulates it; None stands for the card's own."""
    idle_since: float | None = None
    """Value of the performance counter when the latest training ended."""
    planned: dict[tuple[object, ...], list[PlannedTrial]] = field(default_factory=dict)
    """Plans that `fits` asked for, by all of a point that decides bytes. Their seconds are
    by the step-time model of that time."""

    @property
    def budget_bytes(self) -> int:
        """Bytes that the allocator may use now, or that the study allows to a trial."""
        most = self.study.constraints.limits().get("max_required_gib", math.inf)
        return int(min(self.budget.now_bytes, most))

    @property
    def sequence_tokens(self) -> Sequence[int]:
        """Lengths of the training rows in tokens, guessed until the training process has counted
        the longest."""
        return self.row_tokens or self.prepared.row_tokens

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of trials that are not finished."""
        return self.adapters.with_name("checkpoints")

    @property
    def study(self) -> StudySpec:
        return self.prepared.study

    def candidates(self, hyperparameters: Hyperparameters) -> list[PlannedTrial]:
        """Returns the plans of these hyperparameters, fastest first."""
        return plans(
            self.prepared.shape,
            hyperparameters,
            self.study.card,
            self.pins,
            eval_cutoff_len=self.study.eval_cutoff_len,
            step_time=self.step_time,
            row_tokens=self.row_tokens,
            longest=self.longest,
            hardware=self.hardware,
        )

    def turn(self) -> AbstractContextManager[None]:
        """While it is held, no other worker of the study proposes a trial or ends one."""
        return study_turn(self.store.engine, self.record.id, self.record.name)

    def fits(self, hyperparameters: Hyperparameters) -> bool:
        """Returns True if a plan of these hyperparameters is predicted to fit.

        It is always True if the study leaves the decision to the card.
        """
        if self.prepared.left_out:
            return False
        if not self.study.plan.skip_infeasible:
            return True
        key = tuple(getattr(hyperparameters, d.name) for d in DIMENSIONS if d.changes_bytes)
        if key not in self.planned:
            self.planned[key] = self.candidates(hyperparameters)
        planned = choose_plan(self.planned[key], self.budget_bytes, self.margin)
        return planned is not None and not self.broken(hyperparameters, planned)

    def broken(self, hyperparameters: Hyperparameters, planned: PlannedTrial) -> dict[str, float]:
        """Returns the study's constraints that a plan is predicted to break, with the share."""
        return broken(self.study, self.sequence_tokens, hyperparameters, planned)


def make_context(
    prepared: Prepared,
    store: Store,
    record: StudyRecord,
    search: Search,
    folder: StudyFolder,
    listener: RunListener,
    lease: Lease,
    *,
    accept_changes: bool = False,
    budget: Budget | None = None,
) -> RunContext:
    """Builds a run's context before its first trial; the training process is not started yet.

    Args:
        folder: folder of the log and the adapters.
        lease: of this process. Trials that have no outcome are run by other workers.
        accept_changes: continue although rows or weights are others than those recorded.
        budget: of the card, if another base model's context has read it already.

    Raises:
        InputError: no memory of the card is left to train with.
    """
    study = prepared.study
    trials = store.trials(record.id)
    alive = [trial.number for trial in trials if trial.outcome is None]
    remove_leftovers(folder.adapters, trials, alive)
    remove_unneeded_checkpoints(folder.checkpoints, trials, alive)
    limit = MemoryBudget.of(study.card, prepared.shape)
    reader = open_reader()
    if budget is None:
        budget = Budget.at_start(limit, reader, listener.note, lease.share, lease.neighbour_bytes)
    own = [one for one in trials if prepared.owns(one.hyperparameters)]
    pins = decided_pins(prepared, own, has_gpu=reader is not None)
    check = IdentityCheck(
        store, record, listener.note, accept_changes, joins=lease.joins, model=prepared.name
    )
    log = folder.worker_log(lease.worker_id) if lease.joins else folder.log
    trainer = make_trainer(prepared, pins, budget, log, check)
    return RunContext(
        prepared=prepared,
        store=store,
        record=record,
        search=search,
        trainer=trainer,
        listener=listener,
        budget=budget,
        margin=limit.margin,
        adapters=folder.adapters,
        pins=pins,
        lease=lease,
        hardware=budget.as_played(limit.hardware),
    )


def make_trainer(
    prepared: Prepared,
    pins: PlanPins,
    budget: Budget,
    log: Path,
    check: Callable[[Ready], None],
    *,
    all_rows: bool = False,
) -> ResidentTrainer:
    """Builds a study's training process, which is started when it is needed.

    Args:
        pins: with the use of Liger decided.
        log: file for the process's standard error.
        check: called with each process's report.
        all_rows: train on rows that the study leaves out, too.
    """
    study, reader = prepared.study, budget.reader
    expandable = study.plan.expandable_segments
    return ResidentTrainer(
        LoadJob(
            model_name_or_path=prepared.model_name_or_path,
            random_weights=study.base.weights == "random",
            tokenizer=prepared.tokenizer,
            dataset=study.dataset,
            seed=study.seed,
            cutoff_lens=study.search_space.cutoff_len,
            eval_cutoff_len=study.eval_cutoff_len,
            cap_bytes=budget.first_bytes if reader is not None else None,
            enable_liger_kernel=bool(pins.enable_liger_kernel),
            all_rows=all_rows,
            other_tokenizers=prepared.other_tokenizers,
            predicted_storage=predicted_storage(prepared.shape),
        ),
        log,
        expandable_segments=study.card.platform == "linux" if expandable is None else expandable,
        gpu_uuid=reader.device().uuid if reader is not None else None,
        check=check,
    )


def remove_leftovers(
    adapters: Path, trials: Sequence[TrialRecord], alive: Sequence[int] = ()
) -> list[Path]:
    """Removes what killed trainings left: adapters that no trial keeps, and half-saved ones
    (`train.run.save_adapter`). The caller holds the study's turn or its lock.

    Args:
        alive: numbers of trials that other workers run.

    Returns the folders that it removed.
    """
    running = tuple(map(trial_folder, alive))
    found = leftover_adapters(adapters, trials)
    leftovers = [path for path in found if path.name.partition(".")[0] not in running]
    for leftover in leftovers:
        delete_kept(adapters.parents[1], leftover)
    return leftovers


def leftover_adapters(adapters: Path, trials: Sequence[TrialRecord]) -> list[Path]:
    """Folders of adapters that no trial keeps; other people's files are not among them."""
    kept = {Path(trial.adapter_path) for trial in trials if trial.adapter_path is not None}
    found = adapters.iterdir() if adapters.is_dir() else ()
    return sorted(path for path in found if _ADAPTER.fullmatch(path.name) and path not in kept)


def decided_pins(prepared: Prepared, trials: Sequence[TrialRecord], *, has_gpu: bool) -> PlanPins:
    """Returns the study's pins with the use of Liger decided as in its trials so far.

    Args:
        trials: the study's trials.
        has_gpu: True if this machine has a CUDA GPU.
    """
    planned = [trial.plan for trial in trials if trial.plan]
    return decide_liger(
        prepared.study.plan,
        prepared.shape,
        has_gpu=has_gpu,
        earlier=bool(planned[-1]["enable_liger_kernel"]) if planned else None,
    )
