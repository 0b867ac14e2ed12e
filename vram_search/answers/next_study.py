"""Answers `next`: a narrower study for another night, or the advice to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from vram_search.answers.best import none_complete
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.figures import ranked
from vram_search.report.limits import Limits
from vram_search.report.winner import is_clear
from vram_search.spec.hyperparameters import DIMENSIONS
from vram_search.store import Store, StudyRecord, TrialRecord

ENOUGH_TO_STOP = 12
"""Complete trials before stopping is advised."""
_WIDER = 1.5
"""The range of learning rates is kept by this factor around the good ones."""
_BEYOND = 3.0
"""And widened by this factor if the best ones are at its edge."""
_NOT_IN_A_FILE = ("identity", "strategies")


class NextAnswer(StudyAnswer):
    """The proposal for the next night."""

    stop: bool = Field(description="True if nothing more is expected.")
    reasons: list[str] = Field(description="Sentences, the most important first.")
    proposal: dict[str, Any] | None = Field(description="A study file as a mapping; null to stop.")


def next_study(store: Store, study: StudyRecord) -> NextAnswer:
    """Proposes the next night from the trials of a study.

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
    top = runs[: max(3, len(runs) // 3)]
    space, reasons = _narrowed(study.spec["search_space"], top)
    if len(runs) >= ENOUGH_TO_STOP and not reasons and _is_flat(runs):
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
    spec = {name: value for name, value in study.spec.items() if name not in _NOT_IN_A_FILE}
    proposal = {**spec, "study": _next_name(store, study.name), "search_space": space}
    reasons.append(
        "To check the winner against luck, run it again with another seed: --set seed="
        f"{study.spec['seed'] + 1} under another study name."
    )
    return NextAnswer(**study_fields(study), stop=False, reasons=reasons, proposal=proposal)


def _is_flat(runs: Sequence[TrialRecord]) -> bool:
    best, fifth = runs[0].value or 0.0, runs[4].value or 0.0
    return not is_clear(fifth - best, None, best)


def _narrowed(
    space: dict[str, Any], top: Sequence[TrialRecord]
) -> tuple[dict[str, Any], list[str]]:
    """The space of the best third, and sentences about what has changed."""
    narrowed, reasons = dict(space), []
    rates = [trial.hyperparameters["learning_rate"] for trial in top]
    known = space["learning_rate"]
    if isinstance(known, dict):
        low, high = known["min"], known["max"]
        new_low = low / _BEYOND if min(rates) < low * _WIDER else min(rates) / _WIDER
        new_high = high * _BEYOND if max(rates) > high / _WIDER else max(rates) * _WIDER
        narrowed["learning_rate"] = {
            "min": float(f"{new_low:.2g}"),
            "max": float(f"{new_high:.2g}"),
        }
        if new_low > low or new_high < high:
            reasons.append(
                f"learning_rate: the best third is between {min(rates):.1e} and {max(rates):.1e}."
            )
        if new_low < low or new_high > high:
            reasons.append("learning_rate: the best are at the edge of the range; it is widened.")
    for dimension in DIMENSIONS:
        name, values = dimension.name, space.get(dimension.name)
        used = {str(dimension.value_in(trial.hyperparameters)) for trial in top}
        kept = [one for one in values if str(one) in used] if isinstance(values, list) else []
        if values and kept and len(kept) < len(values):
            narrowed[name] = kept
            reasons.append(f"{name}: the best third uses {', '.join(map(str, kept))} alone.")
    return narrowed, reasons


def _next_name(store: Store, name: str) -> str:
    number = 2
    while store.study(f"{name}-{number}") is not None:
        number += 1
    return f"{name}-{number}"
