"""Answers `pareto`: eval_loss against required bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, ClassVar, Literal

from vram_search.answers.beside import beside
from vram_search.answers.best import none_complete
from vram_search.answers.plain import Number, PlainPart, described
from vram_search.answers.study import StudyAnswer, study_fields
from vram_search.errors import InputError
from vram_search.report.figures import required_bytes
from vram_search.report.limits import Limits
from vram_search.report.pareto import pareto_front
from vram_search.report.sentences import pareto_sentence
from vram_search.report.trial_row import trial_row
from vram_search.search.study_constraints import best_trials
from vram_search.store import Store, StudyRecord, TrialRecord


@dataclass(frozen=True, kw_only=True)
class ParetoTrial(PlainPart):
    """A complete trial as one flat row; its hyperparameters and its plan are further keys."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "allow"}

    number: int
    outcome: str
    eval_loss: float | None = field(metadata=described("Nats per token."))
    bits_per_byte: float | None
    required_bytes: int
    required_bytes_origin: Literal["measured", "predicted"]
    reserved_bytes: int | None = field(
        metadata=described("Measured peak of the allocator, in bytes.")
    )
    seconds: Number | None = field(metadata=described("Seconds from start to record."))
    steps_done: int
    steps_total: int
    run: str | None = field(metadata=described("Name of an imported run."))
    model: str | None = field(metadata=described("Model of an imported run."))
    value: float = field(metadata=described("Of the study's objective; lower is better."))
    on_front: bool = field(
        metadata=described("True if no trial with fewer or equal bytes has a lower eval_loss.")
    )
    beaten_by: int | None = field(
        metadata=described(
            "The trial with the lowest eval_loss among those that need no more bytes."
        )
    )
    further: InitVar[Mapping[str, Any]]

    def __post_init__(self, further: Mapping[str, Any]) -> None:
        self.__dict__["_settings"] = dict(further)

    @property
    def settings(self) -> dict[str, Any]:
        """Hyperparameters and memory plan, by name."""
        return dict(self.__dict__["_settings"])

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), **self.settings}


@dataclass(frozen=True, kw_only=True)
class ParetoAnswer(StudyAnswer):
    """All complete trials whose required bytes are known, fewest bytes first."""

    sentence: str = field(metadata=described("Says what more VRAM buys."))
    trials: list[ParetoTrial]


def pareto(store: Store, study: StudyRecord) -> ParetoAnswer:
    """Finds the trials that no other beats in both eval_loss and required bytes.

    Raises:
        InputError: no trial is complete, or the required bytes of none are known.
    """
    trials = best_trials(store, study)
    if not trials:
        raise none_complete(study, trials, Limits())
    front = pareto_front(trials)
    if not front:
        raise InputError(
            f"the VRAM needed by the trials of study {study.name} is not known",
            "`vram-search top` lists their losses",
        )
    rows = [_row(trial, front) for trial in _by_size(trials)]
    sentence = pareto_sentence(front, beside(store, front[0], front[-1]))
    return ParetoAnswer(**study_fields(study), sentence=sentence, trials=rows)


def _by_size(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    sized = [trial for trial in trials if required_bytes(trial)[0] is not None]
    return sorted(sized, key=lambda t: (required_bytes(t)[0] or 0, t.value or 0.0, t.number))


def _row(trial: TrialRecord, front: Sequence[TrialRecord]) -> ParetoTrial:
    winner = _beaten_by(trial, front)
    row = trial_row(trial)
    known = {one.name: row.pop(one.name) for one in fields(ParetoTrial) if one.name in row}
    return ParetoTrial(
        **known,
        further=row,
        value=trial.value or 0.0,
        on_front=winner is None,
        beaten_by=winner,
    )


def _beaten_by(trial: TrialRecord, front: Sequence[TrialRecord]) -> int | None:
    """The trial of the front with the lowest loss among those that need no more bytes; None for a
    trial of the front itself."""
    size = required_bytes(trial)[0]
    assert size is not None
    better = [other for other in front if (required_bytes(other)[0] or 0) <= size]
    return None if better[-1].number == trial.number else better[-1].number
