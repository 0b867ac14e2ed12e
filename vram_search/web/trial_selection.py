"""Selects one page of a study's trials; only the trials of the page are read completely."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vram_search.report.figures import by_value
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.store import LARGE


@dataclass(frozen=True)
class Selection:
    """A page of trials.

    Attributes:
        trials: those of the page, in its order.
        count: trials of all pages.
        study_trials: every trial of the study in number order, without the columns of LARGE.
    """

    trials: list[TrialRecord]
    count: int
    study_trials: list[TrialRecord]


def select_trials(
    store: Store,
    study: StudyRecord,
    *,
    outcomes: Collection[str] = (),
    order: str = "number",
    offset: int = 0,
    limit: int,
) -> Selection:
    """Selects a page.

    Args:
        outcomes: trials of these alone, `running` for those without one; empty for all.
        order: `number`, `newest` or `eval_loss` (lowest first).
        offset: trials of earlier pages. One beyond the last trial gives an empty page.
    """
    every = store.trials(study.id, without=LARGE)
    chosen = [t for t in every if not outcomes or (t.outcome or "running") in outcomes]
    if order == "eval_loss":
        chosen.sort(key=by_value)
    elif order == "newest":
        chosen.reverse()
    numbers = [trial.number for trial in chosen[offset : offset + limit]]
    whole = {trial.number: trial for trial in store.trials(study.id, numbers=numbers)}
    # A trial can be deleted between the two readings.
    return Selection([whole[n] for n in numbers if n in whole], len(chosen), every)
