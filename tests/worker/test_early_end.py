"""A search that ends before its budget is used up, since no further improvement is expected."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.worker.conftest import READY
from vram_search.protocol import Evaluated, Finished, Ready, TrialJob
from vram_search.search.global_stopping import GlobalStopping
from vram_search.search.gp.strategy import GpStrategy
from vram_search.spec import Hyperparameters
from vram_search.units import GIB
from vram_search.worker.context import RunContext
from vram_search.worker.run import ENDLESS, _search


class Trainer:
    """Every trial is complete, with the same loss."""

    pid = None

    def ready(self) -> Ready:
        return READY.model_copy(
            update={
                "device": "CPU",
                "has_gpu": False,
                "longest_tokens": 256,
                "longest_eval_tokens": 256,
                "allocated_bytes": None,
            }
        )

    def run(self, job: TrialJob, on_event: Callable[[object], None], prune: object) -> Finished:
        on_event(
            Evaluated(
                step=9,
                fraction=1.0,
                is_rung=False,
                eval_loss=1.5,
                own_cutoff_eval_loss=1.6,
                bits_per_byte=0.7,
                example_loss_sums=(),
                seconds=1,
            )
        )
        return Finished(
            outcome="complete",
            stage="train",
            step=9,
            steps_total=9,
            allocated_bytes=5 * GIB,
            reserved_bytes=6 * GIB,
        )


def test_search_ends_by_what_it_proposes_and_not_before_the_points_that_wait(
    make_context: Callable[..., RunContext],
) -> None:
    at_once = GlobalStopping(complete_before=0, least_gain=math.inf, in_a_row=1)
    context = make_context(Trainer(), strategy=GpStrategy(stopping=at_once))
    space = context.study.search_space
    for rate in (1e-4, 2e-4):
        context.search.enqueue(
            Hyperparameters(
                optim="adamw_8bit",
                lora_target="all",
                lora_rank=16,
                lora_alpha=32,
                cutoff_len=space.cutoff_len[0],
                batch_size=space.batch_size[0],
                learning_rate=rate,
            )
        )

    why = _search(context, ENDLESS)

    assert why.startswith("no further improvement is expected")
    outcomes = [trial.outcome for trial in context.store.trials(context.record.id)]
    assert outcomes == ["complete", "complete"]
    assert context.search.open_numbers() == [], "what it would have tried next is withdrawn"
