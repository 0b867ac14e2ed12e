"""Two trials of a study side by side: what differs, and what it did to loss, bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vram_search.report.figures import both_required, run_seconds
from vram_search.report.rungs import by_point, length_share, study_rungs
from vram_search.report.sweet_spot import best_loss_sums, paired_standard_error
from vram_search.spec.hyperparameters import DIMENSIONS, OPTIONAL
from vram_search.store import Evaluation, StudyRecord, TrialRecord
from vram_search.units import percent

BEST_CHECKPOINT = "best checkpoint"
_PHASES = ("probe", "train", "eval")
_PEAKS = ("allocated_bytes", "reserved_bytes", "process_bytes")
Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Figure:
    """A figure of both trials; None where unknown.

    Attributes:
        origin: predicted or measured, the same for both.
    """

    name: str
    unit: Literal["bytes", "seconds"]
    origin: str
    first: float | None
    second: float | None

    @property
    def difference(self) -> float | None:
        """Second less first."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first


@dataclass(frozen=True)
class LossDifference:
    """eval_losses at the same point of both trainings; nats per token.

    Attributes:
        at: "best checkpoint" if both trials are complete, otherwise the share of the run in words.
        difference: the second trial's eval_loss minus the first one's.
        standard_error: standard error of the paired difference over the evaluation's examples; None
            if the losses per example are not recorded.
        examples: number of paired examples.
    """

    at: str
    first: float
    second: float
    standard_error: float | None
    examples: int | None

    @property
    def difference(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Comparison:
    """Differences by name as (first, second), and their effects."""

    first: TrialRecord
    second: TrialRecord
    hyperparameters: dict[str, Pair]
    plan: dict[str, Pair]
    circumstances: dict[str, Pair]
    loss: LossDifference | None
    bytes: tuple[Figure, ...]
    parts: tuple[Figure, ...]
    seconds: tuple[Figure, ...]

    @property
    def objective(self) -> str:
        """The name of the figure that `loss` compares."""
        return self.first.value_name

    @property
    def notes(self) -> list[str]:
        """Reasons for caution with the figures."""
        notes = []
        if (count := len(_independent(self.hyperparameters))) > 1:
            notes.append(f"{count} settings differ, so their effects cannot be separated")
        if "training" in self.circumstances:
            notes.append("another kind of training: the losses do not compare")
        elif {"model", "data_hash"} & set(self.circumstances):
            notes.append("another model or other rows: the losses do not compare")
        elif self.first.provenance is not None:
            notes.append("imported runs: whether they were evaluated alike is not known")
        if "outcome" in self.circumstances:
            notes.append(
                "not both are complete: their times belong to trainings of different lengths"
            )
        if "device" in self.circumstances:
            notes.append("another device: the seconds do not compare")
        if self.loss is not None and self.loss.standard_error is None:
            notes.append("losses per example are not recorded: no standard error")
        return notes


def compare(
    study: StudyRecord,
    first: TrialRecord,
    second: TrialRecord,
    evaluations: tuple[Sequence[Evaluation], Sequence[Evaluation]],
) -> Comparison:
    """Differences of the second trial from the first.

    Args:
        evaluations: evaluations of both trials, the first trial's first, with losses per example.
    """
    return Comparison(
        first,
        second,
        _differing(_with_defaults(first), _with_defaults(second)) | _adapters(first, second),
        _differing(first.plan or {}, second.plan or {}),
        _differing(_circumstances(first), _circumstances(second)),
        loss_difference(study, first, second, evaluations),
        (_required(first, second), *_peaks(first, second)),
        _parts(first, second),
        _seconds(first, second),
    )


def _with_defaults(trial: TrialRecord) -> dict[str, Any]:
    return {one.name: one.default for one in OPTIONAL} | trial.hyperparameters


def _adapters(first: TrialRecord, second: TrialRecord) -> dict[str, Pair]:
    """Settings of imported adapters that differ; False where one is plain LoRA."""
    own, other = ((one.provenance or {}).get("adapter") or {} for one in (first, second))
    pairs = {key: (own.get(key, False), other.get(key, False)) for key in own | other}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _independent(differing: Mapping[str, Pair]) -> list[str]:
    """Names without those that follow another which differs too: alpha follows the rank."""
    followers = {one.name for one in DIMENSIONS if one.follows in differing}
    return [name for name in differing if name not in followers]


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    pairs = {name: (first.get(name), second.get(name)) for name in {**first, **second}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _circumstances(trial: TrialRecord) -> dict[str, Any]:
    return {
        "outcome": trial.outcome or "running",
        "model": (trial.provenance or {}).get("model", {}).get("name"),
        "data_hash": trial.data_hash,
        "seed": trial.seed,
        "device": trial.device,
        "training": trial.other_training or "sft",
    }


def loss_difference(
    study: StudyRecord,
    first: TrialRecord,
    second: TrialRecord,
    evaluations: tuple[Sequence[Evaluation], Sequence[Evaluation]],
) -> LossDifference | None:
    """At the best checkpoints of complete trials, else at the last point where both were
    evaluated: a trial that was stopped early is not behind for that. None without such a point."""
    if first.outcome == second.outcome == "complete":
        if first.value is None or second.value is None:
            return None
        sums = [
            best_loss_sums(trial, own)
            for trial, own in zip((first, second), evaluations, strict=True)
        ]
        return _paired(BEST_CHECKPOINT, first.value, second.value, sums[0], sums[1])
    points = [
        by_point(own, study_rungs(study), length_share(study, trial))
        for trial, own in zip((first, second), evaluations, strict=True)
    ]
    for point in sorted(points[0].keys() & points[1].keys(), reverse=True):
        ours, theirs = points[0][point], points[1][point]
        values = [study.ranked_by.value_of(one) for one in (ours, theirs)]
        if values[0] is not None and values[1] is not None:
            sums = [ours.example_loss_sums, theirs.example_loss_sums]
            at = f"{percent(point)} of the run"
            return _paired(at, values[0], values[1], sums[0], sums[1])
    return None


def _paired(
    at: str,
    first: float,
    second: float,
    first_sums: Sequence[float | None] | None,
    second_sums: Sequence[float | None] | None,
) -> LossDifference:
    error = None
    if first_sums and second_sums:
        error = paired_standard_error(second_sums, first_sums, first)
    examples = len(first_sums) if first_sums and error is not None else None
    return LossDifference(at, first, second, error, examples)


def _required(first: TrialRecord, second: TrialRecord) -> Figure:
    ours, theirs, origin = both_required(first, second)
    return Figure("required_bytes", "bytes", origin, ours, theirs)


def _peaks(first: TrialRecord, second: TrialRecord) -> list[Figure]:
    pairs = _both(first.measured or {}, second.measured or {}, _PEAKS)
    return [Figure(name, "bytes", "measured", *pair) for name, pair in pairs.items()]


def _parts(first: TrialRecord, second: TrialRecord) -> tuple[Figure, ...]:
    """Parts of the allocated peak that differ, measured for both or predicted for both; the
    largest difference first."""
    for origin in ("measured", "predicted"):
        ours = (getattr(first, origin) or {}).get("parts")
        theirs = (getattr(second, origin) or {}).get("parts")
        if ours and theirs:
            figures = [
                Figure(name, "bytes", origin, ours.get(name, 0), theirs.get(name, 0))
                for name in {**ours, **theirs}
            ]
            differing = [figure for figure in figures if figure.difference]
            return tuple(sorted(differing, key=lambda figure: -abs(figure.difference or 0)))
    return ()


def _seconds(first: TrialRecord, second: TrialRecord) -> tuple[Figure, ...]:
    steps = _both(first.measured or {}, second.measured or {}, ("step_seconds",))
    phases = _both(first.seconds or {}, second.seconds or {}, _PHASES)
    pairs = {"total": (run_seconds(first), run_seconds(second)), **steps, **phases}
    return tuple(Figure(name, "seconds", "measured", *pair) for name, pair in pairs.items())


def _both(
    first: Mapping[str, Any], second: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Pair]:
    """Pairs under those names that one of the two knows."""
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair != (None, None)}
