"""Runs the proposals of a search on the card of this machine, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.errors import VramSearchError
from vram_search.search import Proposal
from vram_search.search.study_constraints import keeps_all
from vram_search.store import Outcome, TrialEndedError, TrialRecord
from vram_search.store.retries import HANG, may_retry
from vram_search.worker.base_models import BaseModels
from vram_search.worker.context import RunContext
from vram_search.worker.identity import refuse_changed_objective
from vram_search.worker.lease import LeaseLostError
from vram_search.worker.margin import learnt_margin
from vram_search.worker.process import log_tail
from vram_search.worker.reconcile import enqueue_lost
from vram_search.worker.step_time import learnt_step_time
from vram_search.worker.trial import begin_trial, run_trial

ADAPTERS_KEPT = 5
"""Number of best trials whose adapters stay on disk."""
LOST_IN_A_ROW = 3


@dataclass
class TrialRunner:
    """Runs one proposal after the other and stops if they keep failing.

    Attributes:
        device: name of the card, or CPU.
        models: base models of a study of several.
        infeasible: number of successive proposals of the sampler that did not fit.
        lost: number of successive trials that were lost.
    """

    context: RunContext
    device: str
    models: BaseModels | None = None
    infeasible: int = 0
    lost: int = 0
    _begun: dict[int, int] = field(default_factory=dict)
    """Row ids of the trials that have begun, by number."""

    def begin(self, proposal: Proposal) -> None:
        """Records a proposal as a running trial; within the study's turn.

        Raises:
            InputError: the code of the study's objective has changed.
        """
        context = self.context
        if self.models is not None:
            context = self.models.of(proposal.hyperparameters)
        refuse_changed_objective(context.study, context.record)
        self._begun[proposal.number] = begin_trial(context, proposal)

    def __call__(self, proposal: Proposal) -> Outcome:
        """Runs a proposal that has begun, records its outcome and reports it to Optuna.

        Raises:
            VramSearchError: too many trials in a row did not fit or were lost.
            KeyboardInterrupt: after the trial was recorded as lost.
        """
        if self.models is not None:
            self.context, self.device = self.models.for_trial(proposal.hyperparameters)
        context = self.context
        self._learn()
        context.budget.refresh(context.trainer.pid, context.listener.note)
        try:
            record = run_trial(context, proposal, self._begun.pop(proposal.number))
        except (LeaseLostError, TrialEndedError):
            return self._give_up(proposal)
        if self.models is not None:
            self.models.update_costs()
        assert record.outcome is not None, "run_trial finishes the record"
        self._stop_if_gpu_failed()
        self._count_infeasible(proposal, record)
        self._count_lost(record)
        if record.outcome == "lost":
            self._note_second_hang(record)
            with context.turn():
                enqueue_lost(context.store, context.record, context.search)
        self._keep_best_adapters()
        return record.outcome

    def _give_up(self, proposal: Proposal) -> Outcome:
        """Leaves a trial to the worker that has taken it over, and takes a new lease."""
        self.context.listener.note(
            f"trial {proposal.number}: this worker was out of reach for too long, so another one "
            "has taken the trial over"
        )
        with self.context.turn():
            self.context.lease.take_again()
        return "lost"

    def _learn(self) -> None:
        """Updates margin and step times from this device's trials of the study."""
        context, shape = self.context, self.context.prepared.shape
        every = context.store.trials(context.record.id)
        trials = [one for one in every if context.prepared.owns(one.hyperparameters)]
        context.margin = learnt_margin(shape, trials, self.device)
        context.step_time = learnt_step_time(
            shape, trials, self.device, context.study.card, context.row_tokens
        )

    def _stop_if_gpu_failed(self) -> None:
        """Ends the run if the card is lost or has failed; a fault that a program caused is noted.

        Raises:
            VramSearchError: no trial can be trained on this card any more.
        """
        reader = self.context.budget.reader
        fault = reader.fault() if reader is not None else None
        if fault is None:
            return
        if fault.is_fatal:
            raise VramSearchError(
                f"the GPU has failed: {fault.message}",
                "restart the machine, then run the same command again; if it happens again, see "
                "https://docs.nvidia.com/deploy/xid-errors",
            )
        self.context.listener.note(fault.message)

    def _note_second_hang(self, record: TrialRecord) -> None:
        trials = self.context.store.trials(self.context.record.id)
        if (record.error or {}).get("cause") == HANG and not may_retry(record, trials):
            self.context.listener.note(f"trial {record.number} hung again; it is not repeated")

    def _count_infeasible(self, proposal: Proposal, record: TrialRecord) -> None:
        if record.outcome != "infeasible":
            self.infeasible = 0
        elif not proposal.was_enqueued:
            self.infeasible += 1
        if self.infeasible >= self.context.search.strategy.infeasible_in_a_row:
            raise VramSearchError(
                f"{self.infeasible} proposals in a row do not fit {self.context.study.card.label}",
                "widen search_space: a shorter cutoff_len, or plan.enable_liger_kernel: true",
            )

    def _count_lost(self, record: TrialRecord) -> None:
        self.lost = self.lost + 1 if record.outcome == "lost" else 0
        if self.lost >= LOST_IN_A_ROW:
            log = self.context.trainer.log
            raise VramSearchError(
                f"{self.lost} trials in a row were lost; the last one: "
                f"{(record.error or {}).get('message')}; the end of the log:\n{log_tail(log)}",
                f"the whole log: {log}",
            )

    def _keep_best_adapters(self) -> None:
        """Deletes the adapters of all but the best trials, which would fill the disk."""
        store = self.context.store
        constraints = self.context.study.constraints
        ranked = store.top_trials(self.context.record.id)
        ranked.sort(key=lambda trial: not keeps_all(constraints, trial))
        for trial in ranked[ADAPTERS_KEPT:]:
            if trial.adapter_path is not None:
                store.delete_adapter(trial)
