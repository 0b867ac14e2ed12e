"""A training file of another tool, or an export of ours, as a `Workload`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vram_search.errors import InputError, reason_of
from vram_search.estimate.recipes.axolotl import read_axolotl
from vram_search.estimate.recipes.keys import Recipe, RecipeKeys, unquoted
from vram_search.estimate.recipes.llamafactory import read_llamafactory, read_llamafactory_v1
from vram_search.estimate.recipes.trl import read_script, read_trl
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.toml_text import parse_toml
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.tools import AXOLOTL, LLAMA_FACTORY, TRL
from vram_search.tools.command_line import imported_tool, training_command
from vram_search.tools.detect import TITLES, purpose_of, tool_of

READERS = {
    "llamafactory": (LLAMA_FACTORY, read_llamafactory),
    "llamafactory v1": (LLAMA_FACTORY, read_llamafactory_v1),
    "axolotl": (AXOLOTL, read_axolotl),
    "trl": (TRL, read_trl),
    "peft": (TRL, read_script),
    "unsloth": (TRL, read_script),
}
"""Tool, as `tools.detect` names it -> its keys and its reader."""
STAND_IN = "llama-3.1-8b"
"""A shape for files whose model is not known: none of its bytes are shown."""
SCRIPTS = (".sh", ".bash")
PROGRAMS = (".py", ".ipynb")
_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    ".json": ("JSON", parse_json),
    ".toml": ("TOML", parse_toml),
}
"""Suffix -> the format's name and parser; files with another suffix are YAML."""
SUPPORTED = "supported are LLaMA-Factory, Axolotl, TRL and this program's exports"
_DESCRIBE = "describe the training with options: vram-search estimate --model NAME --lora-rank N"


def load_recipe(path: Path, model: str = "") -> Recipe:
    """Reads a training file (YAML or JSON) of the tool that its keys belong to, or the flags of a
    shell script that starts LLaMA-Factory or TRL.

    A key that is absent or null has its tool's default. A model is read from its folder, relative
    to the working folder or to the file, or found by its name.

    Args:
        model: a model that is put in the place of the file's.

    Raises:
        ModelNotFoundError: the file can be read, and its model is not found.
        InputError: no such file, not the file of a tool that is read, or a value that cannot be
            used.
    """
    return _read(path, model)


def load_without_model(path: Path) -> Recipe:
    """Reads a training file whose model is not found: `model` is as the file names it, and
    `workload` holds what the file says on another model's shape.

    Raises:
        InputError: as `load_recipe`.
    """
    return _read(path, STAND_IN, is_stand_in=True)


def _read(path: Path, model: str, *, is_stand_in: bool = False) -> Recipe:
    if path.suffix in PROGRAMS:
        raise InputError(f"{path}: this is {_program(path)}; {SUPPORTED}", _DESCRIBE)
    tool, values = _from_script(path) if path.suffix in SCRIPTS else _from_file(path)
    if tool not in READERS:
        what = "no training file that is known" if tool is None else f"a file of {TITLES[tool]}"
        raise InputError(f"{path}: this is {what}; {SUPPORTED}", _DESCRIBE)
    keys, read = READERS[tool]
    recipe = read(RecipeKeys(values, str(path), path.parent, keys, model, is_stand_in))
    if purpose := purpose_of(tool, values):
        note = f"this file {purpose} and trains nothing; a training with its settings is counted"
        return replace(recipe, notes=[note, *recipe.notes])
    return recipe


def _program(path: Path) -> str:
    """Describes a Python program or notebook, in words after "this is"."""
    noun = "a notebook" if path.suffix == ".ipynb" else "a Python program"
    tool = imported_tool(_text(path))
    return noun if tool is None else f"{noun} for {TITLES[tool]}"


def _from_file(path: Path) -> tuple[str | None, dict[Any, Any]]:
    """The tool of a file, and its values."""
    values = unquoted(load_mapping(path))
    tool = tool_of(values)
    if tool is None and {"base_model", "model_name_or_path"} <= set(values):
        raise InputError(
            f"{path}: base_model: stands together with model_name_or_path",
            "keep the key of the tool that trains",
        )
    return tool, values


def _from_script(path: Path) -> tuple[str, dict[Any, Any]]:
    """The tool that a shell script starts, and the flags that it passes.

    Raises:
        InputError: it starts no training of a tool that is read, or passes a training file on.
    """
    command = training_command(_text(path))
    if command is None:
        raise InputError(
            f"{path}: this is a shell script that starts no training that is known", _DESCRIBE
        )
    title = TITLES[command.tool]
    if command.tool not in READERS:
        raise InputError(f"{path}: this is a shell script for {title}; {SUPPORTED}", _DESCRIBE)
    if command.file:
        raise InputError(
            f"{path}: this is a shell script that starts {title} with {command.file}",
            f"give that file: vram-search estimate {command.file}",
        )
    if command.tool not in ("llamafactory", "trl"):
        raise InputError(f"{path}: this is a shell script for {title}; {SUPPORTED}", _DESCRIBE)
    return command.tool, unquoted(command.flags)


def load_mapping(path: Path) -> dict[Any, Any]:
    """The keys of a YAML, JSON or TOML file.

    Raises:
        InputError: it cannot be read, or holds no mapping.
    """
    text = _text(path)
    kind, parse = _PARSERS.get(path.suffix, ("YAML", parse_yaml))
    try:
        values = parse(text)
    except ParseError as error:
        raise InputError(
            f"{path}: not valid {kind} ({error})", "correct it where the message points"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: holds no mapping of keys", "give the file that the training is started with"
        )
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(
            f"{path}: cannot be read ({reason_of(error)})", "give a training file"
        ) from None
