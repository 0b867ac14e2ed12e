"""LLaMA-Factory's dataset_info.json (0.9.5, `data/parser.py`)."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vram_search.data.conversation import MessageNames
from vram_search.data.findings import NOT_PREFERENCES
from vram_search.data.forms import RowReader
from vram_search.data.source import Source
from vram_search.errors import Fault, FaultyFileError, InputError, reason_of
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.spec.base import Count, Flag, Spec
from vram_search.spec.dataset import Columns, Form, Tags

INFO = "dataset_info.json"
_NOTHING = "\0"
"""A field's name that no row has: LLaMA-Factory takes no column that an entry does not name."""


class _InfoColumns(Spec):
    prompt: str | None = None
    query: str | None = None
    response: str | None = None
    history: str | None = None
    messages: str | None = None
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None


class _Info(Spec):
    """An entry of the file."""

    file_name: str | None = None
    hf_hub_url: str | None = None
    ms_hub_url: str | None = None
    om_hub_url: str | None = None
    script_url: str | None = None
    cloud_file_name: str | None = None
    file_sha1: str | None = None
    formatting: str = Field(default="alpaca", pattern="^(alpaca|sharegpt|openai)$")
    ranking: Flag = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: Count | None = None
    columns: _InfoColumns | None = None
    tags: Tags = Tags()


def info_source(folder: Path, name: str) -> Source:
    """The data set of that name.

    Raises:
        InputError: it is not in the file, has no rows that can be loaded, or holds preferences.
        FaultyFileError: its entry has keys or values that LLaMA-Factory does not know.
    """
    known = load_info(folder)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        raise InputError(
            f"{folder / INFO} has no data set {name!r}",
            f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known)}",
        )
    try:
        entry = _Info.model_validate(known[name])
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, (name, *fault["loc"]))), fault["msg"], fault["input"])
            for fault in error.errors()
        ]
        raise FaultyFileError(str(folder / INFO), faults) from None
    if entry.ranking:
        raise InputError(
            f"{folder / INFO}: {name} has ranking: true: chosen and rejected answers; "
            f"{NOT_PREFERENCES}",
            "name a data set of questions and answers",
        )
    location = _location(folder, name, entry)
    notes = () if entry.num_samples is None else ("num_samples takes the first rows here",)
    return Source(
        location,
        _reader(entry),
        split=entry.split,
        subset=entry.subset,
        data_files=None if entry.folder is None else f"{entry.folder}/*",
        limit=entry.num_samples,
        takes_all_files=True,
        notes=notes,
    )


def load_info(folder: Path) -> dict[str, Any]:
    """Name -> entry.

    Raises:
        InputError: the file cannot be read.
    """
    file = folder / INFO
    try:
        known = parse_json(file.read_bytes())
    except (OSError, ParseError) as error:
        raise InputError(f"{file}: cannot be read ({reason_of(error)})") from None
    if not isinstance(known, dict):
        raise InputError(f"{file}: an object of data sets by name is expected")
    return known


def _location(folder: Path, name: str, entry: _Info) -> str:
    if entry.hf_hub_url:
        return entry.hf_hub_url
    if entry.file_name:
        path = folder / entry.file_name
        if not path.exists():
            raise InputError(f"{folder / INFO}: {name}: no such file ({path})")
        return str(path)
    raise InputError(
        f"{folder / INFO}: {name} has neither file_name nor hf_hub_url",
        "download it, and name its file under file_name",
    )


def _reader(entry: _Info) -> RowReader:
    """Only the columns that the entry names count, as in LLaMA-Factory; without `columns` its
    defaults do."""
    named = entry.columns
    label = (named.kto_tag if named else None) or "label"
    names = MessageNames.of(entry.tags)
    if entry.formatting == "alpaca":
        if named is not None and named.prompt and not named.response:
            return RowReader("text", Columns(text=named.prompt), names, label)
        columns = _columns(named, prompt="instruction", query="input", response="output")
        return RowReader("alpaca", columns, names, label)
    form: Form = "sharegpt"
    return RowReader(form, _columns(named, messages="conversations"), names, label)


def _columns(named: _InfoColumns | None, **defaults: str) -> Columns:
    fields = ("prompt", "query", "response", "history", "messages", "system", "tools")
    if named is None:
        given = defaults
    else:
        given = {name: value for name in fields if (value := getattr(named, name))}
        if "messages" in defaults:
            given = {**defaults, **given}
    return Columns(**{**dict.fromkeys(fields, _NOTHING), **given})
