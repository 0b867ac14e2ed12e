"""The data files of a folder that belong to one split."""

from __future__ import annotations

import re
from pathlib import Path

from vram_search.errors import InputError
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.spec.dataset import PACKED, SUFFIXES, has_known_suffix

_TRAINING = {"train", "training"}
_VALIDATION = {"validation", "valid", "val", "dev", "eval", "evaluation"}
_TEST = {"test", "testing"}
"""Words in a file's name that `datasets` takes for a split, too (4.8, `data_files.py`)."""
_MOST_BYTES = 2**20
"""A larger JSON file is no description."""
_NAMED = 4
"""Files of a folder that a message names."""


def files_of_split(folder: Path, split: str) -> tuple[list[Path], list[Path]]:
    """The files to read, and the data files beside them that are left out.

    A copy of a hub data set has its files in `data`, or in a folder for each split. Text files
    and descriptions beside rows are left out. Training rows are all files but those of an
    evaluation.

    Args:
        split: `train`, a name of another split, or empty for evaluation rows.

    Raises:
        InputError: the folder holds no data file.
    """
    inner = [*_split_folders(folder), *_split_folders(folder / "data")]
    found = _data_files(folder) or _data_files(folder / "data")
    found = found or [file for place in inner for file in _data_files(place)]
    if not found:
        raise InputError(f"{folder}: the folder holds no data file", _what_to_give(folder))
    rows = [file for file in found if not _is_text(file) and not _is_description(file)] or found
    chosen = _of_split(folder, rows, split.partition("[")[0])
    return chosen, [file for file in found if file not in chosen]


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    words = {file: _words(file.relative_to(folder).as_posix()) for file in files}
    if split == "train":
        return [file for file in files if not words[file] & (_VALIDATION | _TEST)] or files
    wanted = ({split.lower()},) if split else (_VALIDATION, _TEST)
    parts = ([file for file in files if words[file] & names] for names in wanted)
    return next(filter(None, parts), files)


def _words(name: str) -> set[str]:
    """Words of a file's name; a file of training rows belongs to no evaluation."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    return _TRAINING if words & _TRAINING else words


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if has_known_suffix(file.name.lower()) and not file.name.startswith(".")
    )


def _split_folders(folder: Path) -> list[Path]:
    """Folders inside that have the name of a split."""
    if not folder.is_dir():
        return []
    inner = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [entry for entry in inner if _words(entry.name) & (_TRAINING | _VALIDATION | _TEST)]


def _is_description(file: Path) -> bool:
    """True for a JSON file of one object without rows, such as a config.json."""
    if file.suffix.lower() != ".json" or file.stat().st_size > _MOST_BYTES:
        return False
    try:
        value = parse_json(file.read_bytes())
    except (OSError, ParseError):
        return False
    lists = value.values() if isinstance(value, dict) else [[{}]]
    return not any(isinstance(one, list) and one and isinstance(one[0], dict) for one in lists)


def _is_text(file: Path) -> bool:
    return ".txt" in file.suffixes[-2:]


def _what_to_give(folder: Path) -> str:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    inner = [entry.name for entry in entries if entry.is_dir() and _data_files(entry)]
    if inner:
        return f"give a folder in it: {', '.join(inner[:_NAMED])}"
    kinds = f"data files are {', '.join(SUFFIXES)}, packed or not ({', '.join(PACKED)})"
    names = [entry.name for entry in entries]
    more = ", ..." if len(names) > _NAMED else ""
    return f"it holds {', '.join(names[:_NAMED])}{more}; {kinds}" if names else kinds
