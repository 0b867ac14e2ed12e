"""Loads a study file. Reports all errors at once, each with its path, value and allowed values."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vram_search.errors import Fault, FaultyFileError, InputError, reason_of, shortened
from vram_search.parsing.encoding import decoded
from vram_search.parsing.parse_error import ParseError
from vram_search.parsing.yaml_text import RepeatedKey, parse_yaml, parse_yaml_strictly
from vram_search.resources import shipped
from vram_search.spec.base import plain_message
from vram_search.spec.name_rule import NAME_FORM
from vram_search.spec.optimizers import OPTIMIZERS
from vram_search.spec.other_keys import PLACES, SETTLED
from vram_search.spec.study import StudySpec

_READABLE = "give the path of a text file in UTF-8 that you may read"
_FORMS = {
    "study": NAME_FORM,
    "name": NAME_FORM,
    "compute_capability": "a version such as 8.6",
}
"""Descriptions of the patterns in StudySpec and Card."""
_LISTS = {
    "too_short": "is empty: list at least one value",
    "tuple_type": "is not a list",
    "list_type": "is not a list",
    "dict_type": "is not a mapping of keys",
}
"""Messages for errors of pydantic whose own words are those of Python."""
_EXAMPLE = "see the shipped studies/demo.yaml for an example"


def load_study(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    card_here: Callable[[], dict[str, Any]] | None = None,
) -> StudySpec:
    """Reads and validates a study file.

    Args:
        path: the file; "demo" alone means the shipped `studies/demo.yaml`.
        overrides: texts "key.inner=value" as in `--set`; values are YAML.
        card_here: returns the fields of the GPU in this machine, for `card: auto`
            (`vram_search.gpu.this_card.card_here`).

    Raises:
        InputError: there is no such file, or it is not YAML.
        FaultyFileError: one or more values are wrong.
    """
    path = find_study_file(path)
    data = load_mapping(path)
    for override in overrides:
        apply_override(data, override)
    return validate_study(data, path.resolve().parent, str(path), card_here)


def validate_study(
    data: dict[str, Any],
    folder: Path,
    source: str,
    card_here: Callable[[], dict[str, Any]] | None = None,
) -> StudySpec:
    """Validates the keys of a study.

    Args:
        folder: relative paths start there.
        source: where the keys come from, for the message.
        card_here: as in `load_study`.

    Raises:
        FaultyFileError: one or more values are wrong.
    """
    try:
        return StudySpec.model_validate(data, context={"folder": folder, "card_here": card_here})
    except ValidationError as error:
        raise FaultyFileError(source, [_fault(e) for e in _distinct(error)]) from None


def find_study_file(path: Path) -> Path:
    """Returns the file itself, or the shipped study of that name.

    Raises:
        InputError: neither exists (the message names the shipped studies), or the file cannot be
            read.
    """
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})", _READABLE) from None
    candidate = shipped("studies") / f"{path.stem}.yaml"
    if candidate.is_file() and path.parent in (Path(), Path("studies")):
        return candidate
    names = ", ".join(sorted(file.stem for file in shipped("studies").glob("*.yaml")))
    what = "is a folder, no such study file" if path.is_dir() else "no such study file"
    raise InputError(f"{path}: {what}", f"shipped studies: {names}")


def load_mapping(path: Path) -> dict[str, Any]:
    """Loads the keys of a study file without checking their values.

    Raises:
        InputError: the file cannot be read, is not YAML, or is not a mapping.
        FaultyFileError: a key occurs twice in one mapping.
    """
    try:
        text = decoded(path.read_bytes())
    except UnicodeDecodeError as error:
        problem = f"cannot be read: not UTF-8 (byte {error.start})"
        raise InputError(f"{path}: {problem}", _READABLE) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})", _READABLE) from None
    return parse_mapping(text, str(path))


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    """The keys of a study's YAML, whatever their values.

    Args:
        source: where the text comes from, for the message.

    Raises:
        InputError: it is not YAML, or holds no mapping.
        FaultyFileError: a key stands twice in one mapping.
    """
    try:
        data, repeated = parse_yaml_strictly(text)
    except ParseError as error:
        remedy = f"correct it there or in the line above; {_EXAMPLE}"
        raise InputError(f"{source}: not valid YAML: {error}", remedy) from None
    if not isinstance(data, dict):
        raise InputError(f"{source}: holds no study (a mapping of keys is expected)", _EXAMPLE)
    if repeated:
        raise FaultyFileError(source, [_repeated(key) for key in repeated])
    return data


def _repeated(key: RepeatedKey) -> Fault:
    return Fault(key.key, f"is in line {key.first_line} and again in line {key.line}; keep one")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Sets a key of a study's mapping from a text "key.inner=value"; the value is YAML.

    Raises:
        InputError: the text is not of that form.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(
            f"--set {override!r}: not of the form key=value",
            "for example --set search_space.lora_rank=[8,16]",
        )
    try:
        value = parse_yaml(text)
    except ParseError as error:
        raise InputError(
            f"--set {shortened(repr(override))}: the value is not valid YAML: {error.problem}",
            "close every bracket and quote, for example --set search_space.lora_rank=[8,16]",
        ) from None
    for part in parts[:-1]:
        inner = data.get(part)
        if not isinstance(inner, dict):
            inner = data[part] = {}
        data = inner
    data[parts[-1]] = value


def _distinct(error: ValidationError) -> list[ErrorDetails]:
    """Drops "too short" errors of lists that are short only because their values are wrong."""
    errors = error.errors()
    lists = {e["loc"][:-1] for e in errors}
    return [e for e in errors if e["type"] != "too_short" or e["loc"] not in lists]


def _fault(error: ErrorDetails) -> Fault:
    """Rewrites an error of pydantic in the words of this program."""
    # "<list>" and "<mapping>" are forms of a value, not keys (`spec.space_parts`).
    location = [part for part in error["loc"] if not str(part).startswith("<")]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    path = path.lstrip(".") or "(the file)"
    value = error["input"] if not isinstance(error["input"], (dict, list)) else None
    message = plain_message(error)
    message = message[0].lower() + message[1:]
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1])
        return Fault(path, _unknown_key(str(location[-1]), known), None, ", ".join(known))
    if kind == "missing":
        return Fault(path, "is required but missing")
    message = _LISTS.get(kind, message)
    if kind == "too_long":
        limits = error["ctx"]
        message = f"holds {limits['actual_length']} entries; {limits['max_length']} are allowed"
    if kind == "model_type":
        keys = ", ".join(_fields_at(location))
        return Fault(path, "is not a mapping of keys", value, _allowed(location) or keys)
    if kind == "string_pattern_mismatch":
        message = "is not of the allowed form"
    return Fault(path, message, value, _allowed(location))


def _unknown_key(key: str, siblings: list[str]) -> str:
    """Says that a key is not known, and what the study has in its place.

    Args:
        siblings: the keys that are known there.
    """
    if places := [place for place in _places() if place.rpartition(".")[2] == key]:
        return f"unknown key here; write {' or '.join(places)}"
    if key == "path" and "model_name_or_path" in siblings:
        return "unknown key; a study has model.model_name_or_path"
    if key in PLACES:
        return f"unknown key; a study has {PLACES[key]}"
    if key in SETTLED:
        return f"unknown key; {SETTLED[key]}"
    close = difflib.get_close_matches(key, siblings, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"


def _places() -> Iterator[str]:
    """Yields the keys of a study and of its settings, from the top: `training.rungs`."""
    yield from StudySpec.model_fields
    for part in ("model", "dataset", "search_space", "training", "plan", "budget"):
        yield from (f"{part}.{key}" for key in _fields_at([part]))


def _allowed(location: Sequence[int | str]) -> str:
    names = [part for part in location if isinstance(part, str)]
    if names[-1:] == ["optim"]:
        return ", ".join(OPTIMIZERS)
    return _FORMS.get(names[-1], "") if names else ""


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Returns the keys of the part of a study file at a location."""
    model: type[BaseModel] = StudySpec
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            models = _types_in(field.annotation)
            model = next(
                (m for m in models if isinstance(m, type) and issubclass(m, BaseModel)), model
            )
    return list(model.model_fields)


def _types_in(annotation: Any) -> Iterator[Any]:
    """Yields the type of a field, and the types that it consists of."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from _types_in(part)
