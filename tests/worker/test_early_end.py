"""A search that ends before its budget is used up, since no further improvement is expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import repeat

from tests.factories import EVALUATED, FakeTrainer, make_point, make_ready
from vram_search.protocol import Finished
from vram_search.search.global_stopping import GlobalStopping
from vram_search.search.gp.strategy import GpStrategy
from vram_search.units import GIB
from vram_search.worker.context import RunContext
from vram_search.worker.recorded_run import CurrentRun
from vram_search.worker.run import _search
from vram_search.worker.stop_rule import ENDLESS

COMPLETE = Finished(
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
    trainer = FakeTrainer(
        repeat([EVALUATED, COMPLETE]), make_ready(device="CPU", has_gpu=False, allocated_bytes=None)
    )
    context = make_context(trainer, strategy=GpStrategy(stopping=at_once))
    space = context.study.search_space
    for rate in (1e-4, 2e-4):
        context.search.enqueue(
            make_point(
                cutoff_len=space.cutoff_len[0], batch_size=space.batch_size[0], learning_rate=rate
            )
        )

    why = _search(context, ENDLESS, lambda: "", CurrentRun())

    assert why.startswith("no further improvement is expected")
    outcomes = [trial.outcome for trial in context.store.trials(context.record.id)]
    assert outcomes == ["complete", "complete"]
    assert context.search.open_numbers() == [], "what it would have tried next is withdrawn"
