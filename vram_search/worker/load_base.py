"""Loads a base model into its training process, and evaluates it before its first trial."""

from __future__ import annotations

import time

from vram_search.errors import VramSearchError
from vram_search.protocol import Ready
from vram_search.spec.hyperparameters import BY_NAME
from vram_search.units import counted, format_duration
from vram_search.worker.as_loaded import as_loaded, longest_rows
from vram_search.worker.context import RunContext
from vram_search.worker.process import TrainingDiedError, log_tail
from vram_search.worker.recorded_run import CurrentRun
from vram_search.worker.resident import LOAD_ATTEMPTS
from vram_search.worker.step_time import approximate_row_tokens
from vram_search.worker.untuned import evaluate_untuned


def make_ready(context: RunContext, run: CurrentRun) -> Ready:
    """Loads the base model and evaluates it untuned.

    Args:
        run: takes the seconds.
    """
    began = time.perf_counter()
    ready = load_base(context)
    run.add("load", time.perf_counter() - began)
    context.row_tokens = approximate_row_tokens(context.prepared.rows, ready.longest_tokens)
    context.longest = longest_rows(ready)
    began = time.perf_counter()
    untuned = evaluate_untuned(context, ready)
    run.add("eval", time.perf_counter() - began)
    context.listener.untuned_evaluated(
        None if untuned is None else context.study.ranked_by.value_of(untuned)
    )
    return ready


def load_base(context: RunContext) -> Ready:
    """Loads the base model before the first trial.

    A loading failure is therefore not recorded as a trial's outcome.
    """
    name = f" {context.prepared.name}" if context.prepared.name else ""
    context.listener.note(f"loading the base model{name} ...")
    ready = ready_after_kills(context)
    if context.trainer.refused_liger:
        _go_on_without_liger(context)
    context.prepared = as_loaded(context.prepared, ready, context.listener.note)
    context.planned.clear()
    for note in ready.notes:
        context.listener.note(note)
    cut = (
        f", {ready.rows_cut} {'is' if ready.rows_cut == 1 else 'are'} cut in every trial"
        if ready.rows_cut
        else ""
    )
    if ready.rows_cut == ready.train_rows:
        largest = max(context.study.search_space.cutoff_len)
        cut = f", all of which are cut in every trial (the largest cutoff_len is {largest})"
    rows = counted(ready.train_rows, "training row", "training rows")
    context.listener.note(
        f"ready in {format_duration(ready.seconds)}: {rows} of up to "
        f"{ready.longest_tokens} tokens{cut}; "
        f"{counted(ready.eval_rows, 'evaluation row', 'evaluation rows')}"
    )
    _leave_out_needless_cutoffs(context, ready.longest_tokens)
    return ready


def ready_after_kills(context: RunContext) -> Ready:
    """Loads the base model; a process that was killed meanwhile is started again, as after a full
    card. One that ended by itself would end again."""
    for attempt in range(LOAD_ATTEMPTS):
        try:
            return context.trainer.ready()
        except TrainingDiedError as error:
            if not error.was_killed or attempt + 1 == LOAD_ATTEMPTS:
                raise VramSearchError(
                    f"the base model could not be loaded: {error}\n{log_tail(context.trainer.log)}"
                ) from None
            context.listener.note(f"{error}; it is started again")
    raise AssertionError("the loop returns or raises")


def _go_on_without_liger(context: RunContext) -> None:
    """Plans all trials without Liger's kernels."""
    context.listener.note(
        f"{context.trainer.refused_liger}; the model trains without Liger's kernels, and the plans "
        "are made again"
    )
    context.pins = context.pins.model_copy(update={"enable_liger_kernel": False})


def _leave_out_needless_cutoffs(context: RunContext, longest_tokens: int) -> None:
    if context.prepared.name is not None:
        return  # the tokens of a row depend on the model
    if True in context.study.space.options(BY_NAME["packing"]):
        return  # a longer sequence holds more rows
    cutoffs = sorted(context.study.search_space.cutoff_len)
    whole = [cutoff for cutoff in cutoffs if cutoff >= longest_tokens]
    if len(whole) < 2:
        return
    context.search.problem.largest_cutoff_len = whole[0]
    needless = ", ".join(map(str, whole[1:]))
    context.listener.note(
        f"no training row is cut at {whole[0]} tokens: cutoff_len {needless} would train the same"
    )
