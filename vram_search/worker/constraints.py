"""A study's constraints on the plans of its points, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from vram_search.errors import Fault, FaultyFileError
from vram_search.estimate import PlannedTrial, plans
from vram_search.spec import Hyperparameters, ModelShape, StudySpec
from vram_search.spec.constraints import UNITS, saved_adapter_bytes
from vram_search.spec.hyperparameters import BY_NAME
from vram_search.spec.space_parts import NumberRange
from vram_search.spec.steps import count_steps
from vram_search.worker.sequences import sequences_an_epoch

_SMALLEST = ("lora_rank", "cutoff_len", "num_train_epochs", "use_dora")
"""Hyperparameters whose lowest value takes the fewest bytes and seconds."""
_VARIED = ("optim", "lora_target", "batch_size", "packing")


def train_seconds(
    study: StudySpec, row_tokens: Sequence[int], point: Hyperparameters, planned: PlannedTrial
) -> float:
    """Predicts the seconds of a full trial's optimizer steps.

    Args:
        row_tokens: lengths of the training rows in tokens, uncut.
    """
    sequences = sequences_an_epoch(point, row_tokens)
    return planned.step_seconds * count_steps(study.training_of(point), planned.plan, sequences)


def figures(
    study: StudySpec, row_tokens: Sequence[int], point: Hyperparameters, planned: PlannedTrial
) -> dict[str, float]:
    """Returns the predicted seconds and bytes that constraints limit."""
    return {
        "max_train_seconds": train_seconds(study, row_tokens, point, planned),
        "max_adapter_mib": saved_adapter_bytes(planned.estimate.trainable_parameters, vars(point)),
        "max_required_gib": planned.estimate.required_bytes,
    }


def broken(
    study: StudySpec, row_tokens: Sequence[int], point: Hyperparameters, planned: PlannedTrial
) -> dict[str, float]:
    """Returns the constraints that a plan is predicted to break, each with its share."""
    excess = study.constraints.excess(figures(study, row_tokens, point, planned))
    return {name: share for name, share in excess.items() if share > 0}


def check_constraints(study: StudySpec, row_tokens: Sequence[int], shape: ModelShape) -> None:
    """Refuses a constraint that no point of the search space keeps.

    Seconds are those of the study's card by its data sheet.

    Raises:
        FaultyFileError: names each such constraint and the least that a point needs.
    """
    limits = study.constraints.limits()
    if not limits:
        return
    least: dict[str, float] = {}
    for point in smallest_points(study):
        for planned in plans(
            shape, point, study.card, study.plan, eval_cutoff_len=study.eval_cutoff_len
        ):
            for name, figure in figures(study, row_tokens, point, planned).items():
                least[name] = min(figure, least.get(name, figure))
    faults = [
        Fault(
            f"constraints.{name}",
            "no point of the search space keeps it",
            limit / UNITS[name],
            f"{least[name] / UNITS[name]:.3g} or more",
        )
        for name, limit in limits.items()
        if least[name] > limit
    ]
    if faults:
        raise FaultyFileError(f"study {study.study}", faults)


def smallest_points(study: StudySpec) -> list[Hyperparameters]:
    """Returns the points of a study that take the fewest bytes and seconds."""
    space = study.space
    lists = [space.options(BY_NAME[name]) for name in _VARIED]
    smallest = {}
    for name in _SMALLEST:
        options = space.options(BY_NAME[name])
        smallest[name] = options.min if isinstance(options, NumberRange) else options[0]
    varied = (dict(zip(_VARIED, chosen, strict=True)) for chosen in product(*lists))
    return [space.point({**smallest, **one}) for one in varied]
