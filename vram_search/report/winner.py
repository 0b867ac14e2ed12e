"""Says in sentences how good the best trial is: against the untuned model, the usual settings, the
second place and another seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vram_search.report.sweet_spot import Contender as Rival
from vram_search.report.sweet_spot import LossSums, SweetSpot, find_sweet_spot
from vram_search.store import TrialRecord

SEED_SHARE = 0.0015
"""Standard deviation of eval_loss between seeds of one configuration, as a share of it: 0.0024 of
1.64 and 0.0018 of 0.93 (docs/experiments.md, real learning curves). After few steps it is more:
0.025 of 4.67 in the demo."""
USUAL_TARGET, USUAL_RANK, USUAL_RATE = "all", 16, 2e-4
USUAL_WORDS = "all linear layers, rank 16, learning rate 2e-4"
"""Settings that most guides name."""
_SAME_RATE = 1.1


def seed_noise(loss: float) -> float:
    """Standard deviation that another seed gives an eval_loss, in nats per token."""
    return SEED_SHARE * loss


def is_clear(difference: float, standard_error: float | None, loss: float) -> bool:
    """True if a difference of two eval_losses is larger than rows and seeds explain.

    Args:
        standard_error: of the difference, by the choice of evaluation rows; None if unknown.
        loss: the lower eval_loss; its seeds count for both trials.
    """
    return abs(difference) > max(standard_error or 0.0, math.sqrt(2) * seed_noise(loss))


@dataclass(frozen=True)
class StoppedUsual:
    """A trial with the usual settings that was stopped early.

    Attributes:
        at: the last point at which it and the best trial were evaluated: "33 % of the run".
        difference: of the objective there; above 0 where the best trial is better.
    """

    number: int
    at: str
    difference: float

    @property
    def sentence(self) -> str:
        side = "behind" if self.difference >= 0 else "ahead"
        return (
            f"The usual settings (trial {self.number}: {USUAL_WORDS}) were stopped early: at "
            f"{self.at} they were {abs(self.difference):.4f} {side}."
        )


@dataclass(frozen=True)
class Winner:
    """The best trial with everything that it is compared with.

    Attributes:
        second: the trial after it; None if it is the only one.
        usual: the trial with the usual settings; None if no complete trial has them.
        untuned_loss: objective of the untuned model; None if unknown.
        is_comparable: False for imported runs, whose evaluation rows may differ.
        stopped_usual: a trial with the usual settings that was stopped early, if no complete
            trial has them.
    """

    spot: SweetSpot
    second: Rival | None
    usual: Rival | None
    untuned_loss: float | None
    is_comparable: bool = True
    stopped_usual: StoppedUsual | None = None

    @property
    def loss(self) -> float:
        """Lowest value of the objective."""
        return self.spot.best.value or 0.0

    @property
    def improvement(self) -> float | None:
        """Share by which the best trial is below the untuned model."""
        return None if not self.untuned_loss else 1 - self.loss / self.untuned_loss

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        words = loss_words(self.loss, self.untuned_loss)
        return f"Use trial {self.spot.best.number}: {self.spot.best.value_name} {words}."

    @property
    def sentences(self) -> list[str]:
        """Sentences on the differences to other trials."""
        if not self.is_comparable:
            return []
        found = [*self._usual_words(), *self._second_words()]
        name, noise = self.spot.best.value_name, seed_noise(self.loss)
        seeds = f"Another seed may change {name} by {noise:.4f} or more"
        return [*found, f"{seeds}; `train best --seeds 3` measures that."]

    def _usual_words(self) -> list[str]:
        if self.usual is None:
            return [] if self.stopped_usual is None else [self.stopped_usual.sentence]
        number, gap = self.usual.trial.number, self.usual.difference
        if number == self.spot.best.number:
            return [f"Its settings are the usual ones ({USUAL_WORDS})."]
        what = f"the usual settings (trial {number}: {USUAL_WORDS})"
        if self.clearly_beats(self.usual):
            return [f"It is {gap:.4f} better than {what}."]
        return [f"There is no practical difference to {what}: {gap:.4f}."]

    def _second_words(self) -> list[str]:
        if self.second is None:
            return []
        number, gap = self.second.trial.number, self.second.difference
        if self.clearly_beats(self.second):
            return [f"Second is trial {number}, {gap:.4f} behind: a clear difference."]
        return [f"Trial {number} is {gap:.4f} behind: no practical difference."]

    def clearly_beats(self, rival: Rival) -> bool:
        """True if the rival's distance is larger than rows and seeds explain."""
        return is_clear(rival.difference, rival.standard_error, self.loss)


def loss_words(loss: float, untuned_loss: float | None) -> str:
    """A loss beside the untuned model's: "1.1170, untuned 2.3100 (-52 %)"."""
    if not untuned_loss:
        return f"{loss:.4f}"
    return f"{loss:.4f}, untuned {untuned_loss:.4f} ({100 * (loss / untuned_loss - 1):+.0f} %)"


def judge_winner(
    trials: Iterable[TrialRecord],
    loss_sums: Mapping[int, LossSums],
    untuned_loss: float | None,
    *,
    is_comparable: bool = True,
) -> Winner | None:
    """Finds the best trial and what it is compared with.

    Args:
        trials: of one study; only complete ones with a finite objective count.
        loss_sums: by trial number, summed nats per eval example at its best checkpoint.

    Returns:
        None if no trial is complete.
    """
    spot = find_sweet_spot(trials, loss_sums)
    if spot is None:
        return None
    second = spot.ranked[1] if len(spot.ranked) > 1 else None
    return Winner(spot, second, usual_trial(spot.ranked), untuned_loss, is_comparable)


def usual_trial(ranked: Sequence[Rival]) -> Rival | None:
    """The best of the trials with the usual settings."""
    return next((rival for rival in ranked if has_usual_settings(rival.trial)), None)


def has_usual_settings(trial: TrialRecord) -> bool:
    """True for all linear layers, rank 16 and a learning rate of about 2e-4."""
    hp = trial.hyperparameters
    rate = hp.get("learning_rate") or 0.0
    return (
        hp.get("lora_target") == USUAL_TARGET
        and hp.get("lora_rank") == USUAL_RANK
        and USUAL_RATE / _SAME_RATE <= rate <= USUAL_RATE * _SAME_RATE
    )
