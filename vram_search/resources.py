"""Finds the shipped configs and studies, in a checkout and in a wheel, and our folders."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path, user_data_path

from vram_search.errors import InputError
from vram_search.units import GIB

_PACKAGE = Path(__file__).resolve().parent
LOW_DISK_BYTES = 5 * GIB
"""Free space below which a run is likely to fail: a converted model takes gigabytes."""


def shipped(*parts: str) -> Path:
    """Path of a shipped file or folder, for example `shipped("configs", "cards")`.

    In a wheel they lie inside the package (`_shipped/`), in a checkout beside it.
    """
    inside = _PACKAGE / "_shipped"
    return (inside if inside.is_dir() else _PACKAGE.parent).joinpath(*parts)


def data_folder() -> Path:
    """Where the database and the adapters lie unless a study or an option says otherwise.

    `VRAM_SEARCH_HOME` moves it together with the cache.

    Raises:
        InputError: this user has no home folder, and `VRAM_SEARCH_HOME` is not set.
    """
    return _chosen_home() or _of_user(user_data_path)


def cache_folder() -> Path:
    """Where converted models lie; safe to delete.

    Raises:
        InputError: as of `data_folder`.
    """
    home = _chosen_home()
    return home / "cache" if home else _of_user(user_cache_path)


def _chosen_home() -> Path | None:
    home = os.environ.get("VRAM_SEARCH_HOME")
    return expanded(home) if home else None


def _of_user(find: Callable[..., Path]) -> Path:
    with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the list of users
        found = find("vram-search", appauthor=False)
        if not str(found).startswith("~"):  # older versions of platformdirs leave the ~
            return found
    raise InputError("this user has no home folder", "set VRAM_SEARCH_HOME, or HOME, to a folder")


def shell_word(path: Path | str) -> str:
    """A path as it is written in a command that is shown: in quotes where it has spaces."""
    text = str(path)
    if os.name != "nt":
        return shlex.quote(text)
    return f'"{text}"' if " " in text else text


def expanded(path: Path | str) -> Path:
    """The path with the home folder for `~`.

    Raises:
        InputError: it begins with `~NAME`, and there is no such user; or this user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: the home folder is not known", "write the whole path, without ~"
        ) from None


def replace_text(file: Path, text: str) -> None:
    """Writes a file in one step: its earlier content stays if the disk is full.

    Devices, pipes, and files in a folder that cannot be written are written in place.

    Raises:
        OSError: it cannot be written.
    """
    place = file.resolve()
    if place.exists() and not (place.is_file() and os.access(place.parent, os.W_OK)):
        place.write_text(text, encoding="utf-8")
        return
    part = place.with_name(f".{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def read_cached_json(file: Path) -> Any:
    """Returns what a cached file holds; None if it is absent or was cut off by a full disk."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_cached_json(file: Path, data: Any) -> None:
    """Writes a file of the cache in one step; an unwritable folder costs only time."""
    unfinished = file.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        for leftover in file.parent.glob(f"{file.stem}.[0-9]*"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(data), encoding="utf-8")
        unfinished.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
