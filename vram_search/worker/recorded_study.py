"""Rebuilds the study file's specification from a study's record."""

from __future__ import annotations

from pydantic import ValidationError

from vram_search.errors import InputError
from vram_search.spec import SearchSpace, StudySpec
from vram_search.spec.base import plain_message
from vram_search.spec.study import TrainingSpec, complete_space
from vram_search.store import StudyRecord


def refuse_imported(record: StudyRecord) -> None:
    """Refuses a study of imported runs where something is done with a search's own trainings.

    Raises:
        InputError: it holds imported runs.
    """
    if record.is_imported:
        raise InputError(
            f"study {record.name} holds imported runs: they were not trained here",
            "name a study of a search with --study",
        )


def recorded_spec(record: StudyRecord, url: str) -> StudySpec:
    """Returns the specification with which the study was last run.

    Args:
        url: URL of its database; the record holds no password.

    Raises:
        InputError: the study holds imported runs, or its files are not there any more.
    """
    refuse_imported(record)
    written = {name: record.spec[name] for name in StudySpec.model_fields if name in record.spec}
    try:
        return StudySpec.model_validate({**written, "database": url})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"study {record.name} cannot be trained again: {place}: {plain_message(fault)}",
            "put its files back where they were",
        ) from None


def recorded_space(record: StudyRecord) -> SearchSpace:
    """Returns the search space with which the study was last run.

    Raises:
        InputError: it is damaged in the database.
    """
    try:
        space = SearchSpace.model_validate(record.spec["search_space"])
        training = TrainingSpec.model_validate(record.spec["training"])
        return complete_space(space, training, record.spec["seed"])
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"study {record.name}: its search space is damaged in the database",
            "run the study file again; that records it",
        ) from None
