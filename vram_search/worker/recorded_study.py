"""Rebuilds the study file's specification from a study's record."""

from __future__ import annotations

from pydantic import ValidationError

from vram_search.errors import InputError
from vram_search.spec import StudySpec
from vram_search.store import StudyRecord


def recorded_spec(record: StudyRecord, url: str) -> StudySpec:
    """Returns the specification with which the study was last run.

    Args:
        url: URL of its database; the record holds no password.

    Raises:
        InputError: the study holds imported runs, or its files are not there any more.
    """
    if record.is_imported:
        raise InputError(
            f"study {record.name} holds imported runs: they were not trained here",
            "name a study of a search with --study",
        )
    written = {name: record.spec[name] for name in StudySpec.model_fields if name in record.spec}
    try:
        return StudySpec.model_validate({**written, "database": url})
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"study {record.name} cannot be trained again: {place}: "
            f"{fault['msg'].removeprefix('Value error, ')}",
            "put its files back where they were",
        ) from None
