"""Evaluates the untuned model once per study, so that each loss can be compared with it."""

from __future__ import annotations

from datetime import UTC, datetime

from vram_search.errors import VramSearchError
from vram_search.protocol import BaseEvaluated, EvaluateBaseJob, Ready
from vram_search.store.untuned import UntunedEvaluation, record_untuned, untuned_evaluation
from vram_search.worker.context import RunContext
from vram_search.worker.process import TrainingDiedError


def evaluate_untuned(context: RunContext, ready: Ready) -> UntunedEvaluation | None:
    """Returns the evaluation of the untuned model; None if it failed, which ends no search.

    It is made once for a study's rows, at the study's cutoff, and recorded.
    """
    store, record = context.store, context.record
    known = untuned_evaluation(store, record.id, context.prepared.name)
    if known is None or known.data_hash != record.data_hash:
        context.listener.note("evaluating the untuned model ...")
        job = EvaluateBaseJob(eval_cutoff_len=context.study.eval_cutoff_len)
        try:
            event = context.trainer.answer(job)
        except (VramSearchError, TrainingDiedError) as error:
            context.listener.note(f"the untuned model was not evaluated: {error}")
            return None
        assert isinstance(event, BaseEvaluated), f"{event} does not answer {job}"
        known = UntunedEvaluation(
            data_hash=record.data_hash,
            eval_loss=event.eval_loss,
            bits_per_byte=event.bits_per_byte,
            example_loss_sums=event.example_loss_sums,
            seconds=event.seconds,
            device=ready.device,
            evaluated_at=datetime.now(UTC),
        )
        record_untuned(store, record.id, known, context.prepared.name)
    objective = context.study.ranked_by
    if (value := objective.value_of(known)) is not None:
        context.listener.note(f"untuned model: {objective.name} {value:.4f} on the same rows")
    return known
