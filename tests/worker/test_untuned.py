"""The untuned model is evaluated once per study, and its failure ends no search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.factories import make_ready
from tests.fake_trainer import UNTUNED_LOSS, untuned
from vram_search.errors import InputError
from vram_search.protocol import BaseEvaluated, EvaluateBaseJob
from vram_search.store.untuned import untuned_evaluation, untuned_loss
from vram_search.worker.context import RunContext
from vram_search.worker.untuned import evaluate_untuned

MakeContext = Callable[..., RunContext]


class Trainer:
    """Answers the job, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.jobs: list[EvaluateBaseJob] = []

    def answer(self, job: EvaluateBaseJob) -> BaseEvaluated:
        self.jobs.append(job)
        if self.error is not None:
            raise self.error
        return untuned(4)


def test_untuned_model_is_evaluated_once_at_the_studys_cutoff(make_context: MakeContext) -> None:
    trainer = Trainer()
    context = make_context(trainer)
    for _ in range(2):
        found = evaluate_untuned(context, make_ready())
        assert found is not None and found.eval_loss == UNTUNED_LOSS
    assert [job.eval_cutoff_len for job in trainer.jobs] == [2048]
    assert untuned_loss(context.store, context.record) == UNTUNED_LOSS
    assert untuned_evaluation(context.store, context.record.id) == found


def test_untuned_model_that_cannot_be_evaluated_ends_no_search(make_context: MakeContext) -> None:
    context: Any = make_context(Trainer(InputError("memory ran out")))
    assert evaluate_untuned(context, make_ready()) is None
    assert "the untuned model was not evaluated: memory ran out" in context.listener.notes
    assert untuned_loss(context.store, context.record) is None
