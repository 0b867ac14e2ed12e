"""Answers `next`: a narrower study for another night, other seeds, or the advice to stop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vram_search.answers.beside import beside
from vram_search.answers.best import none_complete
from vram_search.answers.plain import described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.figures import ranked
from vram_search.report.limits import Limits
from vram_search.report.winner import is_clear
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.units import format_small

ENOUGH_TO_STOP = 12
"""Complete trials before stopping is advised."""
ENOUGH_TO_NARROW = 3
"""Complete trials before the search space is narrowed."""
_REPEATED = 3
"""Best trials that are run again with other seeds."""
_SEEDS = 2
"""Other seeds of each."""
_WIDER = 1.5
"""The range of learning rates is kept by this factor around the good ones."""
_BEYOND = 3.0
"""And widened by this factor if the best ones are at its edge."""
_NOT_IN_A_FILE = ("identity", "strategies", "points")
_LONGEST_NAME = 64


@dataclass(frozen=True, kw_only=True)
class NextAnswer(StudyAnswer):
    """The proposal for the next night."""

    stop: bool = field(metadata=described("True if nothing more is expected."))
    reasons: list[str] = field(metadata=described("Sentences, the most important first."))
    proposal: dict[str, Any] | None = field(
        metadata=described(
            "A study file as a mapping; null to stop, or to continue the same study."
        )
    )


def next_study(store: Store, study: StudyRecord, *, seeds: bool = False) -> NextAnswer:
    """Proposes the next night from the trials of a study.

    It is a narrower space; if nothing can be narrowed, the best trials with other seeds; or to
    stop.

    Args:
        seeds: propose other seeds in any case.

    Raises:
        InputError: the study holds imported runs, or no trial is complete.
    """
    if study.is_imported:
        raise InputError(
            f"study {study.name} holds imported runs: it has no search space to narrow",
            "write a study with `vram-search init`",
        )
    runs = ranked(store.trials(study.id))
    if not runs:
        raise none_complete(study, runs, Limits())
    if seeds:
        return _with_other_seeds(store, study, runs)
    if len(runs) < ENOUGH_TO_NARROW:
        finished = "trial is" if len(runs) == 1 else "trials are"
        reason = f"{len(runs)} complete {finished} too few to narrow the search: continue it."
        return NextAnswer(**study_fields(study), stop=False, reasons=[reason], proposal=None)
    top = runs[: max(ENOUGH_TO_NARROW, len(runs) // 3)]
    space, reasons = _narrowed(study.spec["search_space"], top)
    if len(runs) >= ENOUGH_TO_STOP and not reasons and _is_flat(store, runs):
        return NextAnswer(
            **study_fields(study),
            stop=True,
            reasons=[
                f"Stop: the five best of {len(runs)} finished trials show no practical "
                "difference, and they use the whole search space.",
                "Use the sweet spot, or gain more with more or better rows.",
            ],
            proposal=None,
        )
    if not reasons:
        return _with_other_seeds(store, study, runs)
    proposal = {**_file_of(study), "study": _free_name(store, study.name), "search_space": space}
    reasons.append(
        "To check the best trials against luck, run them with other seeds: vram-search next --seeds"
    )
    return NextAnswer(**study_fields(study), stop=False, reasons=reasons, proposal=proposal)


def _file_of(study: StudyRecord) -> dict[str, Any]:
    return {name: value for name, value in study.spec.items() if name not in _NOT_IN_A_FILE}


def _with_other_seeds(store: Store, study: StudyRecord, runs: Sequence[TrialRecord]) -> NextAnswer:
    """Proposes to train the best trials to their end with other seeds."""
    top, known = runs[:_REPEATED], study.spec["search_space"]
    used = {trial.hyperparameters.get("seed", study.spec["seed"]) for trial in runs}
    fresh = [seed for seed in range(1, len(used) + _SEEDS + 1) if seed not in used][:_SEEDS]
    points = [
        {
            dimension.name: trial.hyperparameters[dimension.name]
            for dimension in DIMENSIONS
            if known.get(dimension.name) is not None and dimension.name in trial.hyperparameters
        }
        for trial in top
    ]
    repeats = [{**point, "seed": seed} for seed in fresh for point in points]
    file = _file_of(study)
    proposal = {
        **file,
        "study": _free_name(store, study.name, "-seeds"),
        "search_space": {**known, "seed": fresh},
        "points": repeats,
        "training": {**file["training"], "rungs": []},
        "budget": {"trials": len(repeats), "stop_early": False},
        "enqueue_priors": False,
        "strategy": "random",
    }
    numbers = ", ".join(str(trial.number) for trial in top)
    trials = f"trials {numbers} are" if len(top) > 1 else f"trial {numbers} is"
    reason = (
        f"{trials} run again to the end with seeds {' and '.join(map(str, fresh))}: the spread "
        "shows which differences are luck."
    )
    reason = reason[0].upper() + reason[1:]
    return NextAnswer(**study_fields(study), stop=False, reasons=[reason], proposal=proposal)


def _is_flat(store: Store, runs: Sequence[TrialRecord]) -> bool:
    fifth = beside(store, runs[4], runs[0])
    return not is_clear(fifth.difference, fifth.standard_error, runs[0].value or 0.0)


def _narrowed(
    space: dict[str, Any], top: Sequence[TrialRecord]
) -> tuple[dict[str, Any], list[str]]:
    """The space of the best trials, and sentences about what has changed."""
    narrowed, reasons = dict(space), []
    found = [trial.hyperparameters.get("learning_rate") for trial in top]
    rates = [rate for rate in found if isinstance(rate, float) and rate > 0]  # others are damaged
    known = space["learning_rate"]
    if isinstance(known, dict) and rates:
        low, high = known["min"], known["max"]
        new_low = low / _BEYOND if min(rates) < low * _WIDER else min(rates) / _WIDER
        new_high = high * _BEYOND if max(rates) > high / _WIDER else max(rates) * _WIDER
        narrowed["learning_rate"] = {
            "min": float(f"{new_low:.2g}"),
            "max": float(f"{new_high:.2g}"),
        }
        if new_low > low or new_high < high:
            low_end, high_end = narrowed["learning_rate"].values()
            ends = f"{format_small(low_end)} to {format_small(high_end)}"
            reasons.append(f"learning_rate: {ends}, around the {len(top)} best.")
        if new_low < low or new_high > high:
            reasons.append("learning_rate: the best are at the edge of the range; it is widened.")
    for dimension in DIMENSIONS:
        name, values = dimension.name, space.get(dimension.name)
        used = {str(dimension.value_in(trial.hyperparameters)) for trial in top}
        kept = [one for one in values if str(one) in used] if isinstance(values, list) else []
        if values and kept and len(kept) < len(values):
            narrowed[name] = kept
            reasons.append(f"{name}: only {', '.join(map(str, kept))}, as in the {len(top)} best.")
    return narrowed, reasons


def _free_name(store: Store, name: str, ending: str = "") -> str:
    """A name that no study has: the old one with the ending and a number."""
    endings = (f"{ending}-{number}" for number in itertools.count(2))
    tried = itertools.chain([ending] if ending else [], endings)
    names = (name[: _LONGEST_NAME - len(end)] + end for end in tried)
    return next(found for found in names if store.study(found) is None)
