"""Prints the answer of `estimate` for a terminal of 80 columns: fits or not, parts, changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vram_search.answers.estimate import (
    EstimateAnswer,
    ModelEstimate,
    PlanAnswer,
    RecipeEstimate,
    StudyEstimate,
)
from vram_search.answers.memory_budget import CardAnswer
from vram_search.answers.named import clean
from vram_search.report.parts import stacked_bar
from vram_search.report.wrapping import wrapped
from vram_search.spec.not_modelled import is_far_off
from vram_search.units import format_bytes

if TYPE_CHECKING:
    from vram_search.answers.recipe_without_model import RecipeWithoutModel

_NAME_WIDTH = 34


def verdict_line(plan: PlanAnswer) -> str:
    """The answer in one line: "fits NVIDIA L4: 3.10 GiB to spare"."""
    if plan.fits is None:
        bound = "at least" if plan.spare_bytes >= 0 else "at most"
        needed = format_bytes(plan.required_bytes)
        return f"not known whether it fits {plan.card_title}: {bound} {needed} needed"
    return fit_words(plan.card_title, plan.spare_bytes)


def fit_words(card_title: str, spare_bytes: int) -> str:
    """Says whether it fits: "fits NVIDIA L4: 3.10 GiB to spare".

    Args:
        spare_bytes: bytes left of the budget; negative if it does not fit.
    """
    word, what = ("fits", "to spare") if spare_bytes >= 0 else ("does not fit", "too much")
    return f"{word} {card_title}: {format_bytes(abs(spare_bytes))} {what}"


def verdict_lines(plan: PlanAnswer, *, with_changes: bool) -> list[str]:
    """The text below the first line of the answer; `with_changes` also where it fits."""
    required, needed = format_bytes(plan.required_bytes), format_bytes(plan.needed_bytes)
    most = "at most " if plan.bound == "upper" else ""
    words = f"{most}{required} needed, {needed} with a margin of {100 * plan.margin:.1f} %"
    if plan.fits is None:
        words = f"{most}{required} needed by what is modelled"
    lines = [
        *_wrapped(f"{plan.name}: {words}"),
        *(line for reason in plan.needs_more for line in _wrapped(f"needs more: {reason}")),
        *(line for reason in plan.needs_less for line in _wrapped(f"may need less: {reason}")),
        *_wrapped(
            f"peak ({plan.moment}): {format_bytes(plan.allocated_bytes)} allocated; "
            f"{plan.trainable_parameters:,} parameters are trained"
        ),
        *generic_lines(plan.not_modelled, plan.margin),
        *wrapped_lines(plan.trace_note),
        *wrapped_lines(plan.base_note),
        "",
        *stacked_bar(plan.allocated_parts, plan.required_bytes, plan.budget_bytes),
    ]
    if with_changes or not plan.fits:
        lines += ["", *_change_lines(plan)]
    return lines


def source_lines(answer: EstimateAnswer) -> list[str]:
    """The file that was read, if the plan's own name does not say it."""
    if isinstance(answer, RecipeEstimate):
        from vram_search.tools.detect import TITLES

        texts = [
            f"a recipe of {TITLES[answer.source]}",
            *(f"note: {note}" for note in answer.notes),
        ]
    elif isinstance(answer, StudyEstimate):
        values = ", ".join(f"{name} {value}" for name, value in answer.hyperparameters.items())
        texts = [
            f"study {answer.study}, {answer.model}; published configuration:",
            values,
            *_note(answer.model_note),
        ]
    elif isinstance(answer, ModelEstimate):
        texts = _note(answer.model_note)
    else:
        texts = []
    return [line for text in texts for line in _wrapped(clean(text))]


def without_model_lines(answer: RecipeWithoutModel) -> list[str]:
    """Lines for a recipe without its model: what it trains, and how to give the model."""
    from vram_search.tools.detect import TITLES

    values = ", ".join(f"{name} {value}" for name, value in answer.training.items())
    texts = [
        f"a recipe of {TITLES[answer.source]}: {values}",
        answer.missing,
        answer.remedy,
        *(f"note: {note}" for note in answer.notes),
    ]
    return [
        f"not known whether it fits: the file is read, its model {answer.model} is not found",
        *(line for text in texts for line in _wrapped(clean(text))),
    ]


def note_lines(note: str) -> list[str]:
    """A note as wrapped lines; none if it is empty."""
    return [line for text in _note(note) for line in _wrapped(text)]


def _note(note: str) -> list[str]:
    return [f"note: {note}"] if note else []


def budget_lines(card: CardAnswer | PlanAnswer) -> list[str]:
    """The VRAM limit as a sum, and where the bytes of context and workspaces are from."""
    return [
        *_wrapped(
            f"VRAM limit {format_bytes(card.budget_bytes)} = "
            f"card {format_bytes(card.total_bytes)} - "
            f"{format_bytes(card.reserve_bytes)} reserve - "
            f"{format_bytes(card.context_bytes)} context"
        ),
        f"  context and workspaces: {card.context_origin}"
        + ("; `calibrate` measures them" if card.context_origin == "assumed" else ""),
    ]


def generic_lines(not_modelled: list[str], margin: float) -> list[str]:
    """The warning of a generic estimate; nothing for a family that is modelled."""
    if not not_modelled:
        return []
    bounds = "" if is_far_off(tuple(not_modelled)) else f"; allow ±{100 * margin:.0f} %"
    words = f"generic estimate, not modelled: {'; '.join(not_modelled)}{bounds}"
    return _wrapped(words)


def wrapped_lines(words: str) -> list[str]:
    """A sentence as wrapped lines; none if it is empty."""
    return _wrapped(words) if words else []


def _wrapped(words: str) -> list[str]:
    return wrapped(words, "  ", "    ")


def _change_lines(plan: PlanAnswer) -> list[str]:
    if not plan.changes:
        return ["no change that is tried here saves bytes"]
    head, alone = "changes, the cheapest first", "" if plan.fits else "alone"
    lines = [f"{head:<{_NAME_WIDTH}}  {'saves':>10}  {alone:<5}  costs"]
    for change in plan.changes:
        name, *more = change.name.split(", ")
        fits = "fits" if change.fits and not plan.fits else ""
        saved = format_bytes(change.saved_bytes)
        lines.append(f"  {name:<{_NAME_WIDTH - 2}}  {saved:>10}  {fits:<5}  {change.cost}")
        lines += [f"    {name}" for name in more]
    if plan.fits:
        return lines
    if plan.changes_to_fit is None:
        return [*lines, "all of them together are not enough"]
    if len(plan.changes_to_fit) > 1:
        words = f"fits with: {'; '.join(plan.changes_to_fit)}"
        lines += wrapped(words, "", "  ")
    return lines
