"""The module tree of a config.json: from the cache, or from transformers' class in a subprocess."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vram_search.errors import InputError, VramSearchError
from vram_search.extras import MissingPackageError, missing_package
from vram_search.installed import installed_version
from vram_search.models.shipped_trees import NOT_THE_MODEL, shipped_tree
from vram_search.resources import cache_folder, read_cached_json, write_cached_json
from vram_search.spec.checkpoint import checkpoint_of_file
from vram_search.spec.config_fields import CONFIG_EXPECTED, MAX_LAYERS, ConfigFields, load_config
from vram_search.spec.filled_shape import parse_filled
from vram_search.spec.model_tree import FORMAT, ModelTree, parse_tree
from vram_search.spec.not_modelled import ALREADY_QUANTIZED, TEXT_ALONE
from vram_search.spec.not_trained import NO_MODEL_TYPE
from vram_search.spec.shape import ModelShape, load_shape

TARGETS = 2
"""Version of the rules for `is_lora_target`, which `model_code.read` decides."""
SECONDS = 300
"""A subprocess that takes longer hangs: on two shared cores it takes up to 20 s."""


def model_tree(config: Path) -> ModelTree:
    """Returns the module tree of a config.json, or of the one in a folder.

    Trees of shipped shapes are shipped, too. Any other takes 3 to 15 s the first time, since the
    model's class is imported by another process; from then on the cache has it
    (`cache_folder()/trees`, by configuration and transformers version).

    Raises:
        InputError: the file is faulty, or transformers cannot build the model.
        VramSearchError: the other process failed.
    """
    file = config / "config.json" if config.is_dir() else config
    return _tree(file.resolve(), tree_key(load_config(file)))


def read_shape(config: Path) -> ModelShape:
    """Returns the shape of a config.json, or of the one in a folder.

    Families with a formula are read from the file alone. For every other model the module tree
    tells weights and linear layers, and its class fills in what the file leaves out.

    Raises:
        InputError: the file is faulty, or neither a formula nor transformers knows the model.
    """
    file = config / "config.json" if config.is_dir() else config
    try:
        shape = load_shape(file)
    except InputError as error:
        return _shape_of_class(file, error)
    if not shape.not_modelled:
        return shape
    try:
        tree = model_tree(file)
    except MissingPackageError:
        raise
    except InputError as error:  # a class that transformers lacks: the generic shape holds
        return replace(shape, not_modelled=(*shape.not_modelled, error.message))
    return with_tree(shape, tree)


def _shape_of_class(file: Path, fault: InputError) -> ModelShape:
    """Returns the shape where the file alone does not tell it.

    Raises:
        InputError: `fault`, if the class does not know the model either; or the weights are
            quantised in a way that is not known.
    """
    values = load_config(file)
    checkpoint = checkpoint_of_file(values, str(file))
    try:
        tree = model_tree(file)
    except InputError as error:
        is_unknown = values.get("model_type") is None or NO_MODEL_TYPE in error.message
        raise (fault if is_unknown else error) from None
    shape = with_tree(parse_filled(tree, str(file)), tree)
    if checkpoint is None or checkpoint.is_trained:
        return replace(shape, checkpoint=checkpoint)
    reason = f"{ALREADY_QUANTIZED} ({checkpoint.method})"
    return replace(shape, checkpoint=checkpoint, not_modelled=(*shape.not_modelled, reason))


def with_tree(shape: ModelShape, tree: ModelTree) -> ModelShape:
    """Returns a shape whose weights and linear layers are the tree's."""
    reasons = tuple(
        f"{tree.model_type}: the text part is trained, the others are frozen and counted"
        if reason.endswith(TEXT_ALONE)
        else reason
        for reason in shape.not_modelled
    )
    return replace(
        shape,
        tree=tree,
        not_modelled=reasons,
        tie_word_embeddings=tree.tied,
        expert_parameters=tree.expert_parameters,
    )


def tree_key(values: dict[str, Any]) -> str:
    """Returns what a tree is cached by: configuration, transformers version, format and rules."""
    model = {key: value for key, value in values.items() if key not in NOT_THE_MODEL}
    text = json.dumps([FORMAT, TARGETS, installed_version("transformers"), model], sort_keys=True)
    from hashlib import sha256

    return sha256(text.encode()).hexdigest()[:32]


@lru_cache(maxsize=64)
def _tree(file: Path, key: str) -> ModelTree:
    cached = cache_folder() / "trees" / f"{key}.json"
    with contextlib.suppress(KeyError, TypeError, ValueError):  # absent, or another format
        return parse_tree(read_cached_json(cached))
    data = _shipped(file)
    if data is None:
        data = _checked(_read_from_class(file))
        write_cached_json(cached, data)
    return parse_tree(data)


def _shipped(file: Path) -> dict[str, Any] | None:
    """Returns the shipped tree; None if there is none, or other classes are installed than those
    that it was read from.

    Raises:
        InputError: transformers cannot build the model, or it is not installed and no tree is
            shipped.
    """
    installed = installed_version("transformers")
    values = load_config(file)
    data = shipped_tree(values, str(file))
    if data is None and not installed:
        what = f"{file}: reading the modules of {values.get('model_type')} from its class"
        raise missing_package("transformers", what)
    if data is None or data["format"] != FORMAT:
        return None
    return _checked(data) if installed in ("", data["transformers_version"]) else None


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer of the process that builds the model, unless it is a fault.

    Raises:
        InputError: transformers cannot build the model.
    """
    if "fault" in data:
        raise InputError(data["fault"], data["remedy"])
    return data


def _read_from_class(file: Path) -> dict[str, Any]:
    """Runs `vram_search.model_code`, so that this process never imports torch.

    Raises:
        InputError: the model has too many layers, or building it takes too long.
        VramSearchError: the process ends without an answer.
    """
    import subprocess

    fields = ConfigFields(load_config(file), str(file))
    for part in (fields, ConfigFields(fields.section("text_config") or {}, str(file))):
        layers = part.found("num_hidden_layers")[1]
        if isinstance(layers, int) and layers > MAX_LAYERS:
            raise part.refused("num_hidden_layers", f"is more than {MAX_LAYERS:,}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vram_search.model_code", str(file)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"{file}: building the model's modules took more than {SECONDS:g} s", CONFIG_EXPECTED
        ) from None
    try:
        data: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise VramSearchError(
            f"{file}: the model's modules could not be read: {last}",
            "`vram-search doctor` checks the packages that training needs",
        ) from None
    return data
