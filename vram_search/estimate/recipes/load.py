"""A training file of another tool, or an export of ours, as a `Workload`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vram_search.errors import InputError
from vram_search.estimate.recipes.axolotl import read_axolotl
from vram_search.estimate.recipes.find_training import DESCRIBE, SUPPORTED, find_training
from vram_search.estimate.recipes.keys import Recipe, RecipeKeys, unquoted
from vram_search.estimate.recipes.llamafactory import read_llamafactory, read_llamafactory_v1
from vram_search.estimate.recipes.trl import read_script, read_trl
from vram_search.tools import AXOLOTL, LLAMA_FACTORY, TRL
from vram_search.tools.detect import TITLES, purpose_of

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


def load_recipe(path: Path, model: str = "") -> Recipe:
    """Reads a training file (YAML or JSON) of the tool that its keys belong to, or the training
    that a script, notebook or job starts (`find_training`).

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
    found = find_training(path)
    if found.tool not in READERS:
        what = "no training file that is known"
        if found.tool is not None:
            what = f"a file of {TITLES[found.tool]}"
        raise InputError(f"{path}: this is {what}; {SUPPORTED}", DESCRIBE)
    keys, read = READERS[found.tool]
    values = unquoted(found.values)
    recipe = read(RecipeKeys(values, found.place, found.folder, keys, model, is_stand_in))
    notes = [*found.notes, *recipe.notes]
    if purpose := purpose_of(found.tool, values):
        notes.insert(
            0, f"this file {purpose} and trains nothing; a training with its settings is counted"
        )
    return replace(recipe, notes=notes)
