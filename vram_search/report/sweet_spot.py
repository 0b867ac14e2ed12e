"""The sweet spot by the one-standard-error rule: the smallest trial that is as good as the best.

Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984), section 3.4.3; here
the standard error is that of the paired difference to the best, over the examples of the eval set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vram_search.report.figures import both_required, ranked, required_bytes, run_seconds
from vram_search.store import Evaluation, TrialRecord
from vram_search.units import format_bytes

LossSums = Sequence[float | None]
NO_PRACTICAL_DIFFERENCE = 0.01
"""Share of the VRAM; a smaller saving decides nothing."""


@dataclass(frozen=True)
class Contender:
    """A complete trial beside the best.

    Attributes:
        difference: its objective minus the lowest one, >= 0.
        standard_error: standard error of that difference; None without recorded per-example losses.
    """

    trial: TrialRecord
    difference: float
    standard_error: float | None

    @property
    def is_within(self) -> bool:
        """True if the difference is at most one standard error; unknown counts as 0."""
        return self.difference <= (self.standard_error or 0.0)


@dataclass(frozen=True)
class SweetSpot:
    """The choice, and what it was chosen from."""

    best: TrialRecord
    chosen: Contender
    within: tuple[Contender, ...]
    """All within one standard error of the best, itself included; lowest objective first."""
    ranked: tuple[Contender, ...]
    """All complete trials, lowest objective first."""

    @property
    def trial(self) -> TrialRecord:
        return self.chosen.trial

    @property
    def why(self) -> str:
        """The reason in one sentence."""
        if self.trial.number == self.best.number and len(self.within) == 1:
            return (
                f"trial {self.best.number} has the lowest {self.best.value_name}; no other trial "
                "is as good within one standard error"
            )
        if self.trial.number == self.best.number:
            return (
                f"trial {self.best.number} has the lowest {self.best.value_name}, and needs the "
                f"least VRAM of the {len(self.within)} trials within one standard error of it"
            )
        return (
            f"trial {self.trial.number} is {self.chosen.difference:.4f} above the best (trial "
            f"{self.best.number}; standard error {self.chosen.standard_error or 0:.4f}) and, of "
            f"the {len(self.within)} trials within one standard error, {_what_it_saves(self)}"
        )


def find_sweet_spot(
    trials: Iterable[TrialRecord], loss_sums: Mapping[int, LossSums]
) -> SweetSpot | None:
    """Finds the trial with the fewest required bytes within one standard error of the best loss.

    Args:
        trials: trials of one study; only complete ones with a finite objective count.
        loss_sums: by trial number, summed nats per eval example at the trial's best checkpoint
            (`best_loss_sums`). A trial without them is only a candidate where its loss is the best.

    Returns:
        None where no trial is complete.
    """
    runs = ranked(trials)
    if not runs:
        return None
    best = runs[0]
    contenders = [beside_best(trial, best, loss_sums) for trial in runs]
    within = tuple(contender for contender in contenders if contender.is_within)
    return SweetSpot(best, min(within, key=_cost), within, tuple(contenders))


def best_loss_sums(trial: TrialRecord, evaluations: Iterable[Evaluation]) -> LossSums | None:
    """Per-example losses of the evaluation that gave the trial its eval_loss."""
    for evaluation in evaluations:
        if evaluation.step == trial.eval_loss_step:
            return evaluation.paired_values
    return None


def paired_standard_error(
    loss_sums: LossSums, best_sums: LossSums, best_loss: float
) -> float | None:
    """Standard error of the difference of two losses, in their own unit.

    An eval_loss is total nats / answer tokens, so the set has `sum(best_sums) / best_loss` tokens;
    they are the same for both trials and taken as fixed. With n examples of summed losses a and b,
    the difference is sum(a - b) / tokens and its standard error sd(a - b) * sqrt(n) / tokens. Bits
    per byte are total nats / (ln 2 x answer bytes), and the same holds for the bytes.

    Returns:
        None where fewer than two examples or unlike sets can be compared.
    """
    if len(loss_sums) != len(best_sums) or best_loss <= 0:
        return None
    pairs = zip(loss_sums, best_sums, strict=True)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) != len(best_sums) or len(differences) < 2:
        return None
    tokens = sum(loss or 0.0 for loss in best_sums) / best_loss
    if tokens <= 0:
        return None
    count = len(differences)
    mean = sum(differences) / count
    # `statistics.stdev` is exact to the last bit, and ten times slower.
    variance = sum((difference - mean) ** 2 for difference in differences) / (count - 1)
    return math.sqrt(variance * count) / tokens


def beside_best(
    trial: TrialRecord, best: TrialRecord, loss_sums: Mapping[int, LossSums]
) -> Contender:
    """Compares a trial with the best one.

    Args:
        loss_sums: as of `find_sweet_spot`; those of these two trials count.
    """
    own, other = loss_sums.get(trial.number), loss_sums.get(best.number)
    best_loss = best.value or 0.0
    error = paired_standard_error(own, other, best_loss) if own and other else None
    return Contender(trial, (trial.value or 0.0) - best_loss, error)


def _cost(contender: Contender) -> tuple[float, float, float]:
    """Required bytes, then seconds; what is unknown comes last."""
    size, seconds = required_bytes(contender.trial)[0], run_seconds(contender.trial)
    return (
        math.inf if size is None else size,
        math.inf if seconds is None else seconds,
        contender.difference,
    )


def _what_it_saves(spot: SweetSpot) -> str:
    chosen, best, origin = both_required(spot.trial, spot.best)
    if chosen is None or best is None or chosen >= best:
        return "takes the least VRAM and time"
    if best - chosen < NO_PRACTICAL_DIFFERENCE * best:
        return "needs the least VRAM, which is no practical difference to the best"
    saved = format_bytes(best - chosen)
    return f"needs the least VRAM: {saved} less than the best ({origin})"
