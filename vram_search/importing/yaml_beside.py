"""The training file that a run was started with, where it stands outside the output folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.importing.files import read_text
from vram_search.importing.settings import tool_of
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import parse_yaml

_LEVELS = 4
"""Axolotl's and LLaMA-Factory's examples write to `saves/MODEL/lora/RUN` at most."""
_MOST_FILES = 200


def yaml_beside(run: Path) -> tuple[Path, dict[Any, Any]] | None:
    """Finds the one training file in the folders above a run whose `output_dir` is the run.

    `output_dir` may start from any of these folders. None if no file, or several, name the run.
    """
    above = list(islice(run.parents, _LEVELS))
    found = [
        (file, values)
        for folder in above
        for file in _yaml_files(folder)
        if (values := _training(file)) and _writes_to(values, run, above)
    ]
    return found[0] if len(found) == 1 else None


def _yaml_files(folder: Path) -> list[Path]:
    try:
        files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    except OSError:
        return []
    return [file for file in files[:_MOST_FILES] if file.is_file()]


def _training(file: Path) -> dict[Any, Any] | None:
    try:
        values = parse_yaml(read_text(file))
    except (InputError, ParseError):
        return None
    return values if isinstance(values, dict) and tool_of(values) else None


def _writes_to(values: dict[Any, Any], run: Path, above: list[Path]) -> bool:
    named = values.get("output_dir")
    if not isinstance(named, str) or not named.strip():
        return False
    try:
        return any((folder / named).resolve() == run for folder in above)
    except OSError:
        return False
