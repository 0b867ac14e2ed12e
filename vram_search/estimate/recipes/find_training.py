"""Finds the keys of the training that a file holds, starts or passes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import InputError, reason_of
from vram_search.estimate.recipes.keys import unquoted
from vram_search.parsing.encoding import decoded
from vram_search.parsing.json_text import parse_commented_json
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.toml_text import parse_toml
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.tools import AXOLOTL, LLAMA_FACTORY, TRL
from vram_search.tools.command_line import Command, imported_tool, training_command
from vram_search.tools.detect import READ, TITLES, tool_of
from vram_search.tools.file_kinds import READ_AT_MOST
from vram_search.tools.launch_lines import (
    SHELL_SCRIPTS,
    WINDOWS_SCRIPTS,
    LaunchText,
    job_lines,
    notebook_lines,
    script_lines,
)

SUPPORTED = "supported are LLaMA-Factory, Axolotl, TRL and this program's exports"
DESCRIBE = "describe the training with options: vram-search estimate --model NAME --lora-rank N"
PROGRAMS = (".py", ".ipynb")
_ROWS = (".jsonl", ".ndjson", ".csv", ".tsv")
_MAPPINGS = (".yaml", ".yml", ".json", ".jsonc", ".json5", ".toml")
_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    **dict.fromkeys((".json", ".jsonc", ".json5"), ("JSON", parse_commented_json)),
    ".toml": ("TOML", parse_toml),
}
"""Suffix -> the format's name and parser; files with another suffix are YAML."""
_NOUNS = {
    **dict.fromkeys(SHELL_SCRIPTS, "a shell script"),
    **dict.fromkeys((".bat", ".cmd"), "a batch file"),
    ".ps1": "a PowerShell script",
    ".ipynb": "a notebook",
    ".py": "a Python program",
}
_FLAGS_OF = {"llamafactory": LLAMA_FACTORY, "trl": TRL}
"""Tools whose trainings need no file."""


@dataclass(frozen=True)
class FoundTraining:
    """The keys of a training.

    Attributes:
        tool: as `tools.detect` names it; None for a file of no tool that is known.
        place: where the keys stand, for messages.
        folder: relative paths in the keys start here.
        notes: how the keys were found, if not in the file itself.
    """

    tool: str | None
    values: Mapping[Any, Any]
    place: str
    folder: Path
    notes: tuple[str, ...] = ()


def find_training(path: Path) -> FoundTraining:
    """Finds the keys of a training file, of a script that starts a training with flags, or of the
    file that a script, notebook, Dockerfile or job passes on: one that it writes itself, or one
    beside it.

    Raises:
        InputError: the file cannot be read, or starts no training of a tool that is read, or passes
            on a file that is not there.
    """
    suffix = path.suffix.lower()
    if suffix == ".py":
        raise InputError(f"{path}: this is {_program(path)}; {SUPPORTED}", DESCRIBE)
    if suffix == ".ipynb":
        lines = notebook_lines(_text(path))
        command = training_command(lines)
        if command is None:
            raise InputError(f"{path}: this is {_program(path)}; {SUPPORTED}", DESCRIBE)
        return _of_command(path, lines, command)
    if _is_script(path):
        lines = script_lines(_text(path), suffix)
        command = training_command(lines)
        if command is None:
            raise InputError(
                f"{path}: this is {_noun(path)} that starts no training that is known", DESCRIBE
            )
        return _of_command(path, lines, command)
    return _of_mapping(path)


def holds_training(path: Path) -> bool:
    """Tells whether a file that may be anything holds or starts a training of a known tool."""
    if path.suffix.lower() in PROGRAMS or _is_script(path):
        return True
    if path.suffix.lower() in _ROWS:
        return False
    try:
        if path.stat().st_size > READ_AT_MOST:
            return False
        return find_training(path).tool is not None
    except OSError:
        return False
    except InputError:
        return _started(path) is not None


def load_mapping(path: Path) -> dict[Any, Any]:
    """The keys of a YAML, JSON or TOML file, also in a list around one training.

    Raises:
        InputError: it cannot be read, or holds no mapping.
    """
    values = _parsed(_text(path), path.suffix, str(path))
    if isinstance(values, list) and len(values) == 1 and _is_read(values[0]):
        values = values[0]
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: holds no mapping of keys", "give the file that the training is started with"
        )
    return values


def _parsed(text: str, suffix: str, place: str) -> Any:
    """The value of a YAML, JSON or TOML text.

    Args:
        suffix: of the file's name.
        place: where the text stands, for messages.

    Raises:
        InputError: it is not valid.
    """
    kind, parse = _PARSERS.get(suffix.lower(), ("YAML", parse_yaml))
    try:
        return parse(text)
    except ParseError as error:
        raise InputError(
            f"{place}: not valid {kind} ({error})", "correct it where the message points"
        ) from None


def _is_read(values: Any) -> bool:
    return isinstance(values, dict) and tool_of(values) in READ


def _of_mapping(path: Path) -> FoundTraining:
    if path.suffix.lower() not in _MAPPINGS and (started := _started(path)):
        return _of_command(path, *started)
    values = unquoted(load_mapping(path))
    tool = tool_of(values)
    if tool is None and {"base_model", "model_name_or_path"} <= set(values):
        raise InputError(
            f"{path}: base_model: stands together with model_name_or_path",
            "keep the key of the tool that trains",
        )
    if tool not in READ and (started := _started(path)):
        return _of_command(path, *started)
    return FoundTraining(tool, values, str(path), path.parent)


def _started(path: Path) -> tuple[LaunchText, Command] | None:
    """The training that a job's file or a text of any suffix starts."""
    try:
        if path.suffix.lower() in _MAPPINGS:
            lines = job_lines(load_mapping(path))
        else:
            lines = script_lines(_text(path))
    except InputError:
        return None
    command = training_command(lines)
    return None if command is None else (lines, command)


def _of_command(path: Path, lines: LaunchText, command: Command) -> FoundTraining:
    """The keys that a command passes, as flags or in a file."""
    title, noun = TITLES[command.tool], _noun(path)
    if command.tool not in READ:
        raise InputError(f"{path}: this is {noun} for {title}; {SUPPORTED}", DESCRIBE)
    if not command.file and command.tool not in _FLAGS_OF:
        raise InputError(
            f"{path}: this is {noun} that starts {title} without a training file", DESCRIBE
        )
    if not command.file:
        flags = _spelt_out(command)
        return FoundTraining(command.tool, {**command.implied, **flags}, str(path), path.parent)
    values, folder = _passed_values(path, lines, command.file)
    changed = dict(command.flags)
    if command.tool == "axolotl":
        changed = {key: value for key, value in changed.items() if key in AXOLOTL.known}
    if values is None:
        again = f"; the command changes {', '.join(changed)} in it" if changed else ""
        named = "FILE" if command.file[:1] in ("$", "%", "{") else command.file
        raise InputError(
            f"{path}: this is {noun} that starts {title} with {command.file}",
            f"give that file: vram-search estimate {named}{again}",
        )
    note = f"{command.file}: is read, as this is {noun} that starts {title} with it"
    if changed:
        note += f"; the command sets {', '.join(changed)}"
    merged = {**command.implied, **unquoted(values), **unquoted(changed)}
    place = f"{path}: {command.file}"
    return FoundTraining(tool_of(merged), merged, place, folder, (note,))


def _passed_values(path: Path, lines: LaunchText, file: str) -> tuple[dict[Any, Any] | None, Path]:
    """The keys of a file that a script writes, or of one beside it, and the file's folder; no keys
    if there is none."""
    name = file.rpartition("/")[2]
    for written, text in lines.written.items():
        if written.rpartition("/")[2] == name:
            values = _parsed(text, Path(name).suffix, f"{path}: {file}")
            return (values if isinstance(values, dict) else {}), path.parent
    for place in (path.parent / file, path.parent / name, Path(file)):
        try:
            if place.is_file():
                return load_mapping(place), place.parent
        except (OSError, ValueError):  # a name that the system does not take
            continue
    return None, path.parent


def _spelt_out(command: Command) -> dict[str, Any]:
    """Flags by their whole names: argparse takes each beginning that stands for one flag alone."""
    known = _FLAGS_OF[command.tool].known
    former = _FLAGS_OF[command.tool].successors

    def whole(flag: str) -> str:
        if flag in known or flag in former:
            return flag
        meant = [name for name in known if name.startswith(flag)]
        return meant[0] if len(meant) == 1 else flag

    return {whole(flag): value for flag, value in command.flags.items()}


def _is_script(path: Path) -> bool:
    return path.suffix.lower() in (*SHELL_SCRIPTS, *WINDOWS_SCRIPTS) or _is_dockerfile(path)


def _is_dockerfile(path: Path) -> bool:
    name = path.name.lower()
    return name.startswith(("dockerfile", "containerfile")) or name.endswith(".dockerfile")


def _noun(path: Path) -> str:
    """Describes a file by its name, in words after "this is"."""
    return "a Dockerfile" if _is_dockerfile(path) else _NOUNS.get(path.suffix.lower(), "a file")


def _program(path: Path) -> str:
    """Describes a Python program or notebook, in words after "this is"."""
    tool = imported_tool(_text(path))
    return _noun(path) if tool is None else f"{_noun(path)} for {TITLES[tool]}"


def _text(path: Path) -> str:
    try:
        return decoded(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: cannot be read: not UTF-8 (byte {error.start})",
            "save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)})", "give a training file"
        ) from None
