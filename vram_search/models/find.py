"""Finds a model's config.json: folder, shipped shape, local Hugging Face cache, hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vram_search.errors import InputError, ModelNotFoundError
from vram_search.models.names import (
    hub_names,
    not_loaded,
    original_of,
    same_name,
    shipped_name,
)
from vram_search.models.other_kinds import other_kind
from vram_search.models.tree import read_shape
from vram_search.resources import expanded, shipped
from vram_search.spec.config_fields import load_config
from vram_search.spec.hub_names import HUB_NAME
from vram_search.spec.shape import ModelShape, shape_names
from vram_search.spec.written_names import close_names, spelt_name, tidied

Origin = Literal["folder", "shipped", "alias", "cache", "hub", "same name"]
_GGUF_KIND = re.compile(r"[.-](?:(?:UD-)?I?Q\d\w*|BF16|F?P?16|F32|MXFP4\w*)$", re.IGNORECASE)
"""The end of a .gguf file's name: how its weights are stored."""


_LOCAL_COPY = re.compile(r"[-_](source|src|local|weights|model|merged|ckpt)$", re.IGNORECASE)
"""The end of a folder's name that is no part of the published model's."""


@dataclass(frozen=True)
class FoundModel:
    """A model's config.json, and where it came from.

    Attributes:
        config: the file, or the folder that holds it.
        origin: how the name was resolved.
        note: one sentence about the origin; empty for a folder and a shipped shape's own name.
        checkpoint: how the named weights are stored ("bnb-4bit", "awq", "gptq", "aqlm", "fp8",
            "nvfp4"), as far as the name tells; empty otherwise.
    """

    config: Path
    origin: Origin
    note: str = ""
    checkpoint: str = ""

    def shape(self) -> ModelShape:
        """Returns the model's shape.

        Raises:
            InputError: the config.json is faulty.
        """
        return read_shape(self.config)


def find_model(name: str, *, beside: Path | None = None) -> FoundModel:
    """Finds the config.json that a name stands for; asks the hub last.

    Args:
        name: a folder or file, a shipped shape such as "qwen2.5-3b", or a hub name such as
            "Qwen/Qwen2.5-3B-Instruct".
        beside: folder that a relative path may also start from.

    Raises:
        ModelNotFoundError: the name stands for nothing, or the hub cannot be asked.
        InputError: the name stands for something that is no causal text model, or whose
            config.json cannot be read.
    """
    written, name = name, tidied(name)
    found = find_on_this_machine(name, beside=beside)
    if found is not None:
        return found
    if spelt := spelt_name(name):
        found = _shipped(spelt)
        assert found is not None, "the index holds it"
        note = f"{written.strip()} is taken for {spelt}, as it is published"
        return replace(found, origin="alias", note=note)
    if what := not_loaded(name):
        return _original(name, what)
    kind = other_kind(name)
    if kind:
        raise InputError(
            f"model {name!r} is {kind}, not a causal text model",
            "give a model that writes text, such as Qwen/Qwen2.5-7B-Instruct",
        )
    if not HUB_NAME.fullmatch(name):
        raise _unknown(name)
    from vram_search.models.hub import download_config, is_online

    guessed = same_name(name)
    if guessed is not None and not is_online():
        return FoundModel(
            shipped("configs", "models", guessed.slug),
            "same name",
            f"{name} is not on this machine and the hub is out of reach: the shape of "
            f"{guessed.published} is used, whose name is the same or a part of it",
            guessed.checkpoint,
        )
    config = download_config(name)
    return FoundModel(config, "hub", f"{name}: config.json downloaded from the hub")


def find_on_this_machine(name: str, *, beside: Path | None = None) -> FoundModel | None:
    """Finds the config.json that a name stands for, without network; None where it is not here.

    Raises:
        InputError: a folder cannot be read or holds no config.json.
    """
    found = _on_disk(name, beside) or _shipped(name)
    if found is not None or not HUB_NAME.fullmatch(name):
        return found
    from vram_search.models.hub import cached_config

    cached = cached_config(name)
    if cached is None:
        return None
    return FoundModel(cached, "cache", f"{name}: config.json from the Hugging Face cache")


def find_by_path(path: str) -> FoundModel | None:
    """Finds the shipped shape whose name is a part of a path on another machine.

    "/data/models/Qwen2.5-7B-Instruct", "saves/qwen3-4b/full/sft" (LLaMA-Factory's layout) and
    ".../hub/models--Qwen--Qwen3-4B/snapshots/..." hold one; None for a path without a name.
    """
    for part in reversed(re.split(r"[/\\]", path)):
        words = part.removeprefix("models--").rpartition("--")[2].replace("___", ".")
        found = same_name(words) or same_name(_LOCAL_COPY.sub("", words))
        if found is not None:
            return FoundModel(
                shipped("configs", "models", found.slug),
                "same name",
                f"{path} is not on this machine: the shape of {found.published} is used, whose "
                "name stands in it",
                found.checkpoint,
            )
    return None


def find_shape(name: str) -> ModelShape:
    """Returns the shape that a name stands for (`find_model`).

    Raises:
        InputError: the name stands for nothing, or the config.json is faulty.
    """
    return find_model(name).shape()


def _on_disk(name: str, beside: Path | None) -> FoundModel | None:
    if name in shape_names():
        return None
    for path in (expanded(name), *([beside / name] if beside else [])):
        try:
            if (path.suffix == ".json" and path.is_file()) or (path / "config.json").is_file():
                return FoundModel(path, "folder")
            if path.suffix.lower() == ".gguf" and path.is_file():
                return _gguf(path)
            if (path / "adapter_config.json").is_file():
                raise _adapter(path)
            if path.is_dir() and not HUB_NAME.fullmatch(name):
                raise InputError(f"{path / 'config.json'}: no such file", "give a model's folder")
        except OSError as error:  # for example a text that is too long for a path
            raise InputError(f"model {name!r}: {error.strerror}", "give another folder") from None
    return None


def _adapter(path: Path) -> InputError:
    """The refusal of an adapter's folder, which is given as a model."""
    base = load_config(path / "adapter_config.json").get("base_model_name_or_path")
    of_base = f" of {base}" if isinstance(base, str) and base else ""
    return InputError(
        f"{path} holds an adapter{of_base}, not a model",
        f"give the model {base}" if of_base else "give the model that it was trained on",
    )


def _gguf(path: Path) -> FoundModel:
    """The shape of a .gguf file, by its name: a run converts the file and reads the result.

    Raises:
        InputError: no shipped model has that name.
    """
    stem = _GGUF_KIND.sub("", path.stem)
    found = same_name(stem)
    if found is None:
        raise InputError(
            f"{path}: no shipped model is called {stem!r}, and a .gguf file is known by its name",
            "name the model that the file was made from, or in a study add `shape:` under `model:`",
        )
    note = f"{path.name} is taken for {found.published} by its name; a run reads the file itself"
    return FoundModel(shipped("configs", "models", found.slug), "same name", note)


def _shipped(name: str) -> FoundModel | None:
    found = shipped_name(name)
    if found is None:
        return None
    folder = shipped("configs", "models", found.slug)
    if name.lower() == found.slug or name.lower() == found.published.lower():
        return FoundModel(folder, "shipped")
    note = f"{name} has the shape of {found.published}, which is shipped"
    if found.checkpoint:
        note += f"; its weights are a quantised copy ({found.checkpoint})"
    return FoundModel(folder, "alias", note, found.checkpoint)


def _original(name: str, what: str) -> FoundModel:
    """The model that a copy for other programs was made from."""
    found = original_of(name)
    if found is None:
        raise ModelNotFoundError(
            f"model {name!r} holds {what}, which are not trained",
            "name the model that it was made from",
        )
    return FoundModel(
        shipped("configs", "models", found.slug),
        "same name",
        f"{name} holds {what}, which are not trained: the shape of {found.published} is used, "
        "from whose name it is; train that model",
    )


def _unknown(name: str) -> ModelNotFoundError:
    import difflib

    known = {one.lower(): one for one in [*shape_names(), *hub_names()]}
    close = close_names(name) or [
        known[one] for one in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    ]
    hint = f"did you mean {', '.join(close)}? " if close else ""
    return ModelNotFoundError(
        f"no model {name!r}",
        f"{hint}Give a hub name such as Qwen/Qwen2.5-7B-Instruct, a folder with a config.json, or "
        "a shipped shape (configs/models/README.md lists them)",
    )
