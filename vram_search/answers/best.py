"""Answers `best`: the complete trial with the lowest eval_loss, and the sweet spot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vram_search.answers.night import NightAnswer, last_night
from vram_search.answers.plain import Number, PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.answers.top import not_ranked
from vram_search.answers.trial import TrialAnswer, trial_answer
from vram_search.errors import InputError
from vram_search.report.figures import required_bytes, run_seconds
from vram_search.report.limits import Limits
from vram_search.report.stopped_usual import with_stopped_usual
from vram_search.report.sweet_spot import Contender
from vram_search.report.winner import Winner, judge_winner, seed_noise
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord, TrialRecord
from vram_search.store.losses import best_example_losses
from vram_search.store.store import LARGE
from vram_search.store.untuned import untuned_loss
from vram_search.units import MIB, parse_bytes, parse_duration


@dataclass(frozen=True, kw_only=True)
class LimitsAnswer(PlainPart):
    """The limits that were asked for; null sets no limit."""

    required_bytes: int | None = field(metadata=described("Most bytes that a trial may require."))
    card: str | None = field(metadata=described("Title of the card that the trial must fit."))
    budget_bytes: int | None = field(
        metadata=described("Bytes that this card leaves to the allocator.")
    )
    seconds: Number | None = field(metadata=described("Most seconds that a trial may take."))


@dataclass(frozen=True, kw_only=True)
class ContenderAnswer(PlainPart):
    """A trial within one standard error of the best."""

    number: int
    eval_loss: float | None = field(metadata=described("Nats per token."))
    value: float | None = field(metadata=described("Of the study's objective."))
    difference: float = field(metadata=described("Of the objective: above the best, at least 0."))
    standard_error: float | None = field(
        metadata=described(
            "Of the difference, paired per evaluation row; null if the losses per row are "
            "not recorded."
        )
    )
    required_bytes: int | None
    required_bytes_origin: Literal["measured", "predicted"] | None
    seconds: Number | None


@dataclass(frozen=True, kw_only=True)
class SweetSpotAnswer(PlainPart):
    """The smallest trial within one standard error of the best."""

    trial: TrialAnswer
    why: str = field(metadata=described("The reason, in one sentence."))
    within: list[ContenderAnswer] = field(
        metadata=described(
            "All trials within one standard error of the best, lowest objective first."
        )
    )


@dataclass(frozen=True, kw_only=True)
class RivalAnswer(PlainPart):
    """Another trial beside the best."""

    number: int
    eval_loss: float | None = field(metadata=described("Nats per token."))
    value: float | None = field(metadata=described("Of the study's objective."))
    difference: float = field(metadata=described("Of the objective: above the best, at least 0."))
    standard_error: float | None = field(metadata=described("Of the difference; null if unknown."))
    is_clear: bool = field(
        metadata=described(
            "True if the difference is larger than evaluation rows and seeds explain."
        )
    )


@dataclass(frozen=True, kw_only=True)
class WinnerAnswer(PlainPart):
    """How good the best trial is: its objective and others' on the same rows and tokens."""

    headline: str = field(metadata=described("The answer in one sentence."))
    sentences: list[str] = field(metadata=described("What the differences to others mean."))
    untuned_eval_loss: float | None = field(
        metadata=described(
            "The objective of the model without an adapter; null if it was not evaluated."
        )
    )
    improvement: float | None = field(
        metadata=described("Share by which the objective is below the untuned model's.")
    )
    second: RivalAnswer | None = field(metadata=described("The trial in second place."))
    usual: RivalAnswer | None = field(
        metadata=described(
            "The trial with the usual settings (all linear layers, rank 16, 2e-4); null if "
            "no complete trial has them."
        )
    )
    seed_noise: float = field(
        metadata=described(
            "Standard deviation that another seed gives the objective in recorded runs of "
            "hundreds of steps; short runs vary more."
        )
    )


@dataclass(frozen=True, kw_only=True)
class BestAnswer(StudyAnswer):
    """The best trial of a study within the limits, and the sweet spot."""

    limits: LimitsAnswer
    trial: TrialAnswer
    winner: WinnerAnswer
    sweet_spot: SweetSpotAnswer
    night: NightAnswer | None = field(
        metadata=described(
            "The study's latest run; null for imported runs and those of older versions."
        )
    )


def best(store: Store, study: StudyRecord, limits: Limits) -> BestAnswer:
    """Finds the best trial and the sweet spot among the complete trials within the limits.

    Raises:
        InputError: no complete trial is within the limits.
    """
    trials = best_trials(store, study)
    sums = best_example_losses(store, study.id)
    admitted = [trial for trial in trials if limits.admits(trial)]
    winner = judge_winner(
        admitted,
        sums,
        untuned_loss(store, study, admitted[0] if admitted else None),
        is_comparable=not study.is_imported,
    )
    if winner is None:
        if not trials and (other := not_ranked(store, study)):
            raise InputError(
                f"study {study.name} has no supervised LoRA training that is complete; "
                f"its complete runs are {', '.join(other)}",
                "`vram-search top --all` lists them; their losses do not rank configurations",
            )
        raise none_complete(study, trials, limits)
    trials_in_order = store.each_trial(study.id, without=LARGE)
    winner = with_stopped_usual(store, study, winner, trials_in_order)
    spot = winner.spot
    return BestAnswer(
        **study_fields(study),
        limits=LimitsAnswer(**vars(limits)),
        trial=trial_answer(spot.best),
        winner=_winner(winner),
        sweet_spot=SweetSpotAnswer(
            trial=trial_answer(spot.trial),
            why=spot.why,
            within=[_contender(item) for item in spot.within],
        ),
        night=last_night(store, study),
    )


def parse_limits(
    card: str | None = None,
    limit: str | int | None = None,
    time_limit: str | float | None = None,
) -> Limits:
    """Reads the limits that a caller sets.

    Args:
        card: slug of a card in configs/cards.
        limit: bytes, or a size such as "12 GiB".
        time_limit: seconds, or a duration such as "1h30m".

    Raises:
        InputError: a size or duration cannot be read, or the card is unknown.
    """
    title, budget_bytes = _budget(card) if card is not None else (None, None)
    try:
        size = parse_bytes(limit) if isinstance(limit, str) else limit
        if isinstance(limit, str) and (size or 0) < MIB:
            raise ValueError(f"{limit!r} is less than 1 MiB; write a unit, like '16 GiB'")
    except ValueError as error:
        raise InputError(f"--limit: {error}") from None
    try:
        seconds = parse_duration(time_limit) if isinstance(time_limit, str) else time_limit
    except ValueError as error:
        raise InputError(f"--time-limit: {error}") from None
    return Limits(size, title, budget_bytes, seconds)


def none_complete(study: StudyRecord, trials: list[TrialRecord], limits: Limits) -> InputError:
    """Builds the error for a study without a complete trial within the limits."""
    within = f" {limits.words}" if limits.words else ""
    remedy = "`vram-search top --all` lists what was tried"
    if limits.words and (least := limits.least_words(trials)):
        remedy = f"its complete trials need at least {least}"
    return InputError(f"study {study.name} has no complete trial{within} yet", remedy)


def _budget(slug: str) -> tuple[str, int]:
    """A shipped card's title, and the bytes that it leaves to the allocator."""
    from vram_search.answers.named import find_card
    from vram_search.estimate.memory_budget import card_memory

    card = find_card(slug)
    return card.label, card_memory(card).budget_bytes


def _winner(winner: Winner) -> WinnerAnswer:
    def rival(other: Contender | None) -> RivalAnswer | None:
        if other is None:
            return None
        return RivalAnswer(
            number=other.trial.number,
            eval_loss=other.trial.eval_loss,
            value=other.trial.value,
            difference=other.difference,
            standard_error=other.standard_error,
            is_clear=winner.clearly_beats(other),
        )

    return WinnerAnswer(
        headline=winner.headline,
        sentences=winner.sentences,
        untuned_eval_loss=winner.untuned_loss,
        improvement=winner.improvement,
        second=rival(winner.second),
        usual=rival(winner.usual),
        seed_noise=seed_noise(winner.loss),
    )


def _contender(item: Contender) -> ContenderAnswer:
    size, origin = required_bytes(item.trial)
    return ContenderAnswer(
        number=item.trial.number,
        eval_loss=item.trial.eval_loss,
        value=item.trial.value,
        difference=item.difference,
        standard_error=item.standard_error,
        required_bytes=size,
        required_bytes_origin=None if size is None else origin,
        seconds=run_seconds(item.trial),
    )
