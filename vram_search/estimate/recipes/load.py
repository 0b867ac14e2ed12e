"""A training YAML of LLaMA-Factory or Axolotl as a `Workload`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vram_search.errors import InputError
from vram_search.estimate.recipes.axolotl import read_axolotl
from vram_search.estimate.recipes.keys import Recipe, RecipeKeys
from vram_search.estimate.recipes.llamafactory import read_llamafactory


def load_recipe(path: Path) -> Recipe:
    """Reads a training YAML: LLaMA-Factory's has `model_name_or_path`, Axolotl's `base_model`.

    A key that is absent or null has its tool's default. LLaMA-Factory 0.9.5: `hparams/*_args.py`;
    Axolotl: `utils/schemas/*.py`. A model is read from its folder, relative to the working folder
    or to the file; a hub name means the shape shipped here.

    Raises:
        InputError: no such file, not the YAML of either tool, a value that cannot be used, a
            method other than LoRA, or a model whose shape is not known.
    """
    keys = RecipeKeys(_load_mapping(path), str(path), path.parent)
    has_llamafactory = keys.has("model_name_or_path")
    has_axolotl = keys.has("base_model")
    if has_llamafactory and has_axolotl:
        raise keys.refused(
            "base_model", "stands beside model_name_or_path", "keep the key of the tool that trains"
        )
    if has_llamafactory:
        return read_llamafactory(keys)
    if has_axolotl:
        return read_axolotl(keys)
    raise InputError(
        f"{path}: the YAML of neither LLaMA-Factory nor Axolotl",
        "model_name_or_path (LLaMA-Factory) or base_model (Axolotl) is expected",
    )


def _load_mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise InputError(f"{path}: cannot be read ({error})", "give a training YAML") from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2024-13-45
        raise InputError(
            f"{path}: not valid YAML ({error})", "correct it where the message points"
        ) from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: holds no mapping of keys", "give the YAML that the training is started with"
        )
    return values
