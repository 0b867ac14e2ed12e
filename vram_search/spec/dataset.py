"""The data set of a study: its files, the fields of a row, and the chat template."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from vram_search.errors import InputError
from vram_search.spec.base import Count, PositiveFloat, Spec, plain_message
from vram_search.spec.hub_names import HUB_NAME, data_set_of_page
from vram_search.spec.paths import absolute_path

SUFFIXES = (
    *(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt"),
    *(".parquet", ".arrow", ".feather"),
)
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
"""Endings of a compressed file, after the ending of its content."""
_LOADERS = ("json", "csv", "parquet", "arrow", "text")
"""Kinds of files that `datasets.load_dataset` takes instead of a name."""
DEFAULT_SEED = 42
"""Seed of the split and of the order of rows, unless a study says otherwise."""
PUBLISHED_DATE = "2024-07-26"
"""The default date in Llama 3's chat templates."""

Form = Literal["auto", "alpaca", "messages", "sharegpt", "text"]


class Columns(Spec):
    """The fields of a row, with the keys of LLaMA-Factory's dataset_info.json."""

    prompt: str = Field(default="instruction", description="alpaca: the question; a.b for nested")
    query: str = Field(default="input", description="alpaca: added to the question; optional")
    response: str = Field(default="output", description="alpaca: the answer")
    messages: str = Field(default="messages", description="list of {role, content}")
    history: str = Field(default="history", description="alpaca: earlier [question, answer] pairs")
    system: str = Field(default="system", description="the row's system message; optional")
    tools: str = Field(default="tools", description="functions that may be called; optional")
    text: str = Field(default="text", description="plain text; the model learns all of it")


class Tags(Spec):
    """The names inside a message, with the keys of LLaMA-Factory's dataset_info.json. Usual names
    need no entry."""

    role_tag: str | None = Field(default=None, description="key of the role")
    content_tag: str | None = Field(default=None, description="key of the text")
    user_tag: str | None = Field(default=None, description="role of the user")
    assistant_tag: str | None = Field(default=None, description="role of the assistant")
    system_tag: str | None = Field(default=None, description="role of the system message")
    observation_tag: str | None = Field(default=None, description="role of a tool's result")
    function_tag: str | None = Field(default=None, description="role of a tool call")


Entry = str | dict[str, Any]
"""A file, folder or hub name, or a mapping as in Axolotl's `datasets:`."""


Entries = Annotated[tuple[Entry, ...], Field(min_length=1)]


class DatasetSpec(Spec):
    """Training and evaluation rows, in any of the usual forms."""

    dataset_dir: str | None = Field(
        default=None,
        description="folder of a LLaMA-Factory dataset_info.json; train and eval are its names",
    )
    train: str | Entries = Field(
        description="file, folder or hub name; a list of them; entries as in Axolotl's `datasets:`"
    )
    eval: str | Entries | None = Field(
        default=None, description="evaluation rows, as `train`; default: a fixed split"
    )
    val_size: PositiveFloat = Field(
        default=0.1, description="evaluation rows split off: a share below 1, else a count"
    )
    format: Form = Field(default="auto", description="auto: by the fields of each row")
    columns: Columns = Columns()
    tags: Tags = Tags()
    template: str | None = Field(
        default=None,
        description="chat template: a name such as chatml, or a Jinja file; "
        "default: the tokenizer's own",
    )
    date: str = Field(
        default=PUBLISHED_DATE,
        description="the date for chat templates that put today's into the prompt",
    )
    on_bad_row: Literal["skip", "fail"] | None = Field(
        default=None,
        description="rows that cannot be used: skip all, or fail at the first; "
        "default: skip up to 1 %, refuse more",
    )
    max_samples: Count | None = Field(
        default=None, description="use at most this many rows of each file"
    )

    @field_validator("dataset_dir")
    @classmethod
    def _has_info(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        path = absolute_path(value, info)
        if not (path / "dataset_info.json").is_file():
            raise ValueError(f"{path} holds no dataset_info.json")
        return str(path)

    @field_validator("template")
    @classmethod
    def _template_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or not value.endswith((".jinja", ".jinja2", ".j2", ".txt")):
            return value
        path = absolute_path(value, info)
        if not path.is_file():
            raise ValueError(f"no such file ({path})")
        return str(path)

    @field_validator("date", mode="before")
    @classmethod
    def _is_date(cls, value: object) -> object:
        text = value.isoformat() if isinstance(value, datetime.date) else value
        if not isinstance(text, str):
            raise ValueError("a date such as 2026-01-31 is expected")
        try:
            return datetime.date.fromisoformat(text).isoformat()
        except ValueError:
            raise ValueError("a date such as 2026-01-31 is expected") from None

    @field_validator("train", "eval")
    @classmethod
    def _located(cls, value: Any, info: ValidationInfo) -> Any:
        """Makes paths absolute; hub names and the names of a dataset_info.json stay."""
        if value is None or info.data.get("dataset_dir"):
            return value
        if isinstance(value, str):
            return locate_data(value, info)
        return tuple(
            locate_data(entry, info)
            if isinstance(entry, str)
            else {**entry, "path": locate_data(path_of(entry), info)}
            for given in value
            for entry in _files_of_loader(given)
        )

    @property
    def label(self) -> str:
        """Names of the training files, for a table or a message."""
        return ", ".join(short_name(path) for path in paths_of(self.train))


def locate_data(value: str, info: ValidationInfo) -> str:
    """Returns an absolute path or file pattern; a hub name stays as it is, and the
    address of its page becomes one.

    Raises:
        ValueError: there is no such file or folder, and the text is not a hub name.
    """
    if (page := data_set_of_page(value)) is not None:
        return page
    if set(value) & set("*?["):
        pattern = str(absolute_path(value, info))
        if not matching_files(pattern):
            raise ValueError(f"no file matches ({pattern})")
        return pattern
    path = absolute_path(value, info)
    if path.exists():
        return str(path)
    if HUB_NAME.fullmatch(value) and not has_known_suffix(value):
        return value
    raise ValueError(f"no such file ({path})")


def matching_files(pattern: str) -> list[Path]:
    """Returns the files that match an absolute pattern such as /data/*.jsonl, sorted by name."""
    root = Path(Path(pattern).anchor)
    found = root.glob(str(Path(pattern).relative_to(root)))
    return sorted(path for path in found if path.is_file())


def has_known_suffix(name: str) -> bool:
    """True if the name ends like a data file, compressed or not."""
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.endswith(SUFFIXES)


def path_of(entry: dict[str, Any]) -> str:
    """Returns the `path` of an entry in the form of Axolotl's `datasets:`.

    Raises:
        ValueError: the entry has no path.
    """
    path = entry.get("path")
    if not isinstance(path, str) or not path:
        raise ValueError("an entry without path: name a file, a folder or a hub name")
    return path


def _files_of_loader(entry: Entry) -> list[Entry]:
    """An entry for each file, where an entry is `path: json` with `data_files`, as the arguments
    of `datasets.load_dataset`."""
    files = entry.get("data_files") if isinstance(entry, dict) else None
    if isinstance(entry, str) or not files or path_of(entry) not in _LOADERS:
        return [entry]
    if isinstance(files, dict):
        files = files.get(entry.get("split") or "train") or []
    rest = {key: value for key, value in entry.items() if key not in ("data_files", "split")}
    return [{**rest, "path": file} for file in ([files] if isinstance(files, str) else files)]


def paths_of(value: str | tuple[Entry, ...] | None) -> list[str]:
    """Returns the names of files, folders and hub data sets in `train` or `eval`."""
    if value is None:
        return []
    entries = [value] if isinstance(value, str) else value
    return [entry if isinstance(entry, str) else str(entry.get("path")) for entry in entries]


def short_name(path: str) -> str:
    """Returns the name of a file without its folder, which may move."""
    return Path(path).name if Path(path).is_absolute() else path


def recorded_dataset(spec: Mapping[str, Any], study: str) -> DatasetSpec:
    """Returns the data set of a recorded study.

    Raises:
        InputError: one of its files is not there any more.
    """
    try:
        return DatasetSpec.model_validate(spec["dataset"])
    except ValidationError as error:
        raise InputError(
            f"the data set of study {study} is not there any more: "
            f"{plain_message(error.errors()[0])}",
            "put the file back where it was",
        ) from None
