"""Files of a run's folder: read whole, never beyond the folder, and fingerprinted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vram_search.errors import InputError, reason_of
from vram_search.parsing.encoding import decoded
from vram_search.parsing.json_text import parse_json as parse_json_text
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.units import MIB, format_bytes

MAX_TEXT_BYTES = 64 * MIB
"""A log of 300,000 steps; a larger file is not a training's."""


class RunFolder:
    """One run's folder. A file that is not there reads as None; `digests` holds those read.

    Every reader raises InputError where a file leads out of the folder, cannot be read, is no
    regular file or is too large, not UTF-8 or malformed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.digests: dict[str, str] = {}

    def names(self, pattern: str) -> list[str]:
        """Names of entries that match, in order."""
        try:
            return sorted(entry.name for entry in self.path.glob(pattern))
        except OSError as error:
            raise unreadable(self.path, error) from None

    def text(self, name: str) -> str | None:
        file = self._file(name)
        if file is None:
            return None
        content = read_text(file)
        self.digests[name] = hashlib.sha256(content.encode()).hexdigest()
        return content

    def json(self, name: str) -> dict[str, Any] | None:
        text = self.text(name)
        return None if text is None else parse_json(text, str(self.path / name))

    def yaml(self, name: str) -> dict[Any, Any] | None:
        """None also where the file holds no mapping."""
        text = self.text(name)
        if text is None:
            return None
        try:
            loaded = parse_yaml(text)
        except ParseError as error:
            place = f", line {error.line}" if error.line else ""
            raise InputError(
                f"{self.path / name}{place}: not valid YAML: {error.problem}",
                "correct the file, or move it out of the folder to import the run without it",
            ) from None
        return loaded if isinstance(loaded, dict) else None

    def size(self, name: str) -> int | None:
        """Bytes of a file that is not read."""
        file = self._file(name)
        return None if file is None else file.stat().st_size

    def add_digest(self, name: str) -> None:
        """Fingerprints a file that is there and is not read further."""
        try:
            with (self.path / name).open("rb") as stream:
                self.digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.path / name, error) from None

    def _file(self, name: str) -> Path | None:
        file = self.path / name
        try:
            if not file.is_symlink() and not file.exists():
                return None
            target = file.resolve(strict=True)
            is_file = target.is_file()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
            raise unreadable(file, error) from None
        if not target.is_relative_to(self.path):
            raise InputError(
                f"{file}: leads out of the folder, to {target}",
                "copy the file itself into the folder",
            )
        if not is_file:
            raise InputError(f"{file}: is not a regular file", "put the run's own file there")
        return target


def read_text(file: Path) -> str:
    """A text in UTF-8, or in UTF-16 with a byte order mark.

    Raises:
        InputError: it cannot be read, is too large or in another encoding.
    """
    try:
        size = file.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise InputError(
                f"{file}: too large ({format_bytes(size)}, at most {format_bytes(MAX_TEXT_BYTES)})",
                "cut the file down to one training's lines",
            )
        return decoded(file.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: not UTF-8 (byte {error.start})",
            "save the file as UTF-8 and import again, for example: iconv -f WINDOWS-1252 -t UTF-8",
        ) from None
    except OSError as error:
        raise unreadable(file, error) from None


def parse_json(text: str, place: str) -> dict[str, Any]:
    """A JSON object; NaN and Infinity are read, as Python's json writes them.

    Raises:
        InputError: it is none; names the place.
    """
    problem = "an object {...} is expected"
    try:
        loaded = parse_json_text(text)
        if isinstance(loaded, dict):
            return loaded
    except ParseError as error:
        problem = str(error)
    raise InputError(
        f"{place}: not valid JSON: {problem}",
        "restore the file, or move it out of the folder to import the run without it",
    )


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a path that the system refuses."""
    return InputError(
        f"{path}: cannot be read: {reason_of(error)}", "check that it is there and may be read"
    )
