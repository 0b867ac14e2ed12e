"""Compares the tool's run with the trial's record, one check per question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from vram_search.store import StepLoss
from vram_search.units import format_bytes
from vram_search.verify.recorded_rows import RowInShort

FIRST_LOSS_TOLERANCE = 0.005
"""Nats per token. Before the first step the adapter adds nothing, so only rounding differs."""
REPRODUCED_TOLERANCE = 0.005
"""Nats per token between two evaluations of one adapter in bf16, with different batches."""
RATE_TOLERANCE = 1e-6
"""Largest relative difference of two learning rates; both have double precision."""
PEAK_TOLERANCE = 0.03
"""Share of the peak. LLaMA-Factory pads to multiples of 8 tokens (`train/sft/workflow.py`,
`pad_to_multiple_of`), up to 3 % of 256; it logs hundredths of a GiB."""


@dataclass(frozen=True)
class Check:
    """A figure of the record compared with the same figure of the tool.

    Attributes:
        agrees: None if the comparison was not possible; `note` gives the reason.
        ours, theirs: rows, relative figures, nats per token or bytes, as `name` says.
        tolerance: largest difference that agrees, in the same unit; None requires equality.
    """

    name: str
    agrees: bool | None
    ours: float | None = None
    theirs: float | None = None
    tolerance: float | None = None
    note: str = ""

    @property
    def difference(self) -> float | None:
        """The tool's figure minus ours."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs - self.ours


def compare_rows(split: str, ours: Sequence[RowInShort], theirs: Sequence[RowInShort]) -> Check:
    """Checks that both have the same rows in the same order, with equal tokens and loss masks."""
    same = sum(a == b for a, b in zip(ours, theirs, strict=False))
    note = ""
    if len(ours) != len(theirs):
        note = f"{len(ours)} rows here, {len(theirs)} in the tool"
    elif same < len(ours):
        number = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        (_, tokens, answers), (_, their_tokens, their_answers) = ours[number], theirs[number]
        note = (
            f"row {number + 1} is the first that differs: {tokens} tokens, {answers} of the answer "
            f"here; {their_tokens} and {their_answers} in the tool"
        )
    return Check(f"{split}_rows", not note, len(ours), same, note=note)


def compare_learning_rates(ours: Sequence[StepLoss], theirs: Mapping[int, StepLoss]) -> Check:
    """Checks the learning-rate schedule: the steps, and the steps whose learning rate agrees."""
    wanted = {step.step: step.learning_rate for step in ours}
    found = {number: step.learning_rate for number, step in theirs.items()}
    same = sum(_same_rate(rate, found.get(number)) for number, rate in wanted.items())
    note = ""
    if same < len(wanted) or wanted.keys() != found.keys():
        every = sorted(wanted.keys() | found.keys())
        number = next(n for n in every if not _same_rate(wanted.get(n), found.get(n)))
        note = f"step {number}: {wanted.get(number)} here, {found.get(number)} in the tool"
    return Check("learning_rates", not note, len(wanted), same, note=note)


def _same_rate(ours: float | None, theirs: float | None) -> bool:
    if ours is None or theirs is None:
        return False
    return math.isclose(ours, theirs, rel_tol=RATE_TOLERANCE, abs_tol=1e-12)


def compare_first_loss(ours: Sequence[StepLoss], theirs: Mapping[int, StepLoss]) -> Check:
    """Checks the base model and the rows of the first step, where the adapter adds nothing yet."""
    mine = next((step.loss for step in ours if step.step == 1), None)
    return _compare_losses(
        "first_loss", mine, theirs[1].loss if 1 in theirs else None, FIRST_LOSS_TOLERANCE
    )


def compare_eval_loss(
    ours: float, theirs: float | None, tolerance: float, *, evaluates: bool
) -> Check:
    """Compares eval_loss at the best checkpoint's step, averaged as the tool averages.

    Args:
        evaluates: True if the export makes the tool evaluate.
    """
    if not evaluates:
        note = "not compared: an evaluation by the tool does not fit the card"
        return Check("eval_loss", None, ours, note=note)
    return _compare_losses("eval_loss", ours, theirs, tolerance)


def compare_reproduced(
    recorded: Sequence[float | None],
    sums: Sequence[float],
    at_study_cutoff: Sequence[RowInShort],
    at_own_cutoff: Sequence[RowInShort],
) -> Check:
    """Checks that the kept adapter still gives the recorded losses.

    Only rows that both cutoffs leave the same are compared.

    Args:
        recorded, sums: summed nats per evaluation row, of the record and of now.
    """
    pairs = [
        (before, now, mine[2])
        for before, now, study, mine in zip(
            recorded, sums, at_study_cutoff, at_own_cutoff, strict=True
        )
        if before is not None and study == mine
    ]
    tokens = sum(count for _, _, count in pairs)
    if not tokens:
        return Check("adapter_loss", None, note="the trial's cutoff_len shortens every row")
    before = sum(pair[0] for pair in pairs) / tokens
    now = sum(pair[1] for pair in pairs) / tokens
    check = _compare_losses("adapter_loss", before, now, REPRODUCED_TOLERANCE)
    note = f"the kept adapter evaluated again, {len(pairs)} of {len(sums)} rows"
    return replace(check, note=check.note or note)


def _compare_losses(name: str, ours: float | None, theirs: float | None, tolerance: float) -> Check:
    ours, theirs = _finite(ours), _finite(theirs)
    if ours is None or theirs is None:
        where = "the record" if ours is None else "the tool's log"
        return Check(name, False, ours, theirs, tolerance, f"{where} has no finite loss there")
    return Check(name, abs(theirs - ours) <= tolerance, ours, theirs, tolerance)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class PredictedPeak(NamedTuple):
    """The peak predicted for the tool's run, and what of the tool needs it."""

    allocated_bytes: int
    cause: str


def compare_peak(
    measured: Mapping[str, Any] | None,
    found: Mapping[str, int],
    predicted: PredictedPeak | None,
    *,
    has_gpu: bool,
) -> Check:
    """Checks that the tool's peak is no higher than the recorded one, or than that predicted for
    the tool.

    It may be lower: the tool does not have to draw the longest rows together, as the probe does.
    """
    ours = (measured or {}).get("allocated_bytes")
    theirs = found.get("allocated_bytes")
    if not has_gpu or ours is None or not theirs:
        why = "the trial was not measured on a GPU" if ours is None else "the tool saw no GPU"
        return Check("allocated_bytes", None, ours, note=f"not compared: {why}")
    note = f"peak {format_bytes(theirs)} in the tool, {format_bytes(ours)} in the record"
    most = ours
    if predicted and predicted.allocated_bytes > ours:
        most = predicted.allocated_bytes
        note += f"; {format_bytes(most)} predicted for {predicted.cause}"
    most *= 1 + PEAK_TOLERANCE
    return Check("allocated_bytes", theirs <= most, ours, theirs, most - ours, note)


def batch_mean(sums: Sequence[float], answer_tokens: Sequence[int], batch_size: int) -> float:
    """Returns eval_loss averaged as transformers' Trainer does (`Trainer.evaluation_loop`).

    Each batch gives its mean per token, and the batches, in the order of the rows, are weighted by
    their number of rows.

    Args:
        sums: summed nats per row.
        answer_tokens: tokens with a loss per row.

    Returns:
        Nats per token; nan if a batch has no token with a loss.
    """
    total = 0.0
    for start in range(0, len(sums), batch_size):
        batch = slice(start, start + batch_size)
        tokens = sum(answer_tokens[batch])
        total += sum(sums[batch]) / tokens * len(sums[batch]) if tokens else math.nan
    return total / len(sums)
