"""Keeps requests inside the folders that the service was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.gpu.this_card import card_here
from vram_search.spec import StudySpec
from vram_search.spec.load import parse_mapping, validate_study
from vram_search.spec.shape import shape_names
from vram_search.web.expressions import refuse_slow

SOURCE = "the study"


def parse_study(text: str, folders: Sequence[Path]) -> StudySpec:
    """Reads and validates a study that was sent; its relative paths start from the first folder.

    Raises:
        InputError: a path leads out of the folders, an expression takes too long, or the study is
            faulty.
    """
    data = parse_mapping(text, SOURCE)
    if data.get("database") is not None:
        raise FaultyFileError(
            SOURCE, [Fault("database", "the service uses its own database; leave it out")]
        )
    if ".py:" in str(data.get("objective")):
        remedy = "run it in a terminal: vram-search run STUDY.yaml"
        raise FaultyFileError(
            SOURCE,
            [Fault("objective", "the service runs no code of a study", data["objective"], remedy)],
        )
    faults = [
        Fault(place, "leads out of the folders of this service", value, _listed(folders))
        for place, value in _texts(data, "")
        if not is_inside(value, folders)
    ]
    if faults:
        raise FaultyFileError(SOURCE, faults)
    refuse_slow([value for place, value in _texts(data, "") if "lora_target" in place])
    return validate_study(data, folders[0], SOURCE, card_here)


def checked_model(name: str, folders: Sequence[Path]) -> str:
    """A model's name, or the absolute path of a folder that the service may read.

    Raises:
        InputError: the path leads out of the folders.
    """
    if not is_inside(name, folders):
        raise InputError(
            f"model {name!r} leads out of the folders of this service",
            f"allowed: {_listed(folders)}",
        )
    path = folders[0] / name
    try:
        is_path = name not in shape_names() and path.exists()
    except OSError:  # longer than a file's name can be
        is_path = False
    return str(path) if is_path else name


def is_inside(text: str, folders: Sequence[Path]) -> bool:
    """Returns True if a text, taken for a path, lies under one of the folders.

    Every text is taken for a path. A name without separators lies in the first folder.
    """
    try:
        path = (folders[0] / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):  # too long, `~nobody`, a zero byte
        return False
    return any(path.is_relative_to(folder) for folder in folders)


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a mapping, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]")


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(str(folder) for folder in folders)
