"""Reads config.yaml: the settings of this machine that belong to no study.

    notify:
      url_env: [VRAM_SEARCH_NTFY]        # variables that hold a URL of apprise
      url_files: [~/.config/telegram]    # files that hold one
      on: [finished, failed]
    trackers: [tensorboard]

URLs hold tokens, so the file has their place only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from vram_search.errors import Fault, FaultyFileError, InputError, reason_of
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import parse_yaml
from vram_search.resources import data_folder, expanded
from vram_search.spec.base import Spec, plain_message

CONFIG_VARIABLE = "VRAM_SEARCH_CONFIG"
Occasion = Literal["finished", "failed", "best"]
TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]


def _refuse_url(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("the name of an environment variable is expected, not the URL itself")
    return name


class NotifySettings(Spec):
    """Who is told about the end of a study, and where the addresses are kept."""

    url_env: list[Annotated[str, AfterValidator(_refuse_url)]] = Field(default=[])
    """Environment variables; each holds one URL as apprise writes them."""

    url_files: list[Path] = Field(default=[])
    """Files; each holds one URL in its first line."""

    on: list[Occasion] = Field(default=["finished", "failed"])
    """Occasions: the study `finished`, it `failed`, or a trial is the `best` so far."""

    @model_validator(mode="before")
    @classmethod
    def _restore_on(cls, data: Any) -> Any:
        # YAML 1.1 reads the key `on` as true.
        if not isinstance(data, dict):
            return data
        return {"on" if key is True else key: value for key, value in data.items()}


class Settings(Spec):
    """The settings of this machine."""

    notify: NotifySettings = NotifySettings()
    trackers: list[TrackerName] = Field(default=[])
    """Each finished trial becomes one run there."""


def config_file() -> Path:
    """`$VRAM_SEARCH_CONFIG`, else config.yaml in the data folder."""
    chosen = os.environ.get(CONFIG_VARIABLE)
    return expanded(chosen) if chosen else data_folder() / "config.yaml"


def load_settings() -> Settings:
    """The settings of this machine; the defaults if there is no file.

    Raises:
        InputError: the file cannot be read, or is no YAML.
        FaultyFileError: one or more values are wrong. No value is shown, it may be a secret.
    """
    file = config_file()
    if not file.exists():
        return Settings()
    try:
        data = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise InputError(
            f"{file}: cannot be read ({reason_of(error)})", "see docs/service.md"
        ) from None
    if data is not None and not isinstance(data, dict):
        raise InputError(
            f"{file}: holds no settings (a mapping of keys is expected)", "see docs/service.md"
        )
    try:
        return Settings.model_validate(data or {})
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, e["loc"])) or "config", plain_message(e))
            for e in error.errors(include_input=False)
        ]
        raise FaultyFileError(str(file), faults, remedy="see docs/service.md") from None
