"""Which fields of a row hold what: the study's names, or the usual ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vram_search.spec.dataset import Columns

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),  # dolly
    ("instruction", "input", "response"),
    ("prompt", "", "completion"),  # TRL
    ("prompt", "", "response"),
    ("question", "", "answer"),  # gsm8k
    ("question", "", "response"),  # OpenOrca
    ("query", "", "response"),
    ("query", "", "answer"),
    ("problem", "", "solution"),
    ("input", "", "output"),
    ("inputs", "", "targets"),
    ("user", "", "assistant"),
)
"""(question, added to it, answer), in order of preference."""
SYSTEMS = ("system", "system_prompt")
TOOLS = ("tools", "functions")
_DEFAULT = Columns()


@dataclass(frozen=True)
class Fields:
    """Names of the fields in which a row of a question and an answer has its texts."""

    prompt: str
    query: str
    response: str


def lookup(row: dict[str, Any], name: str) -> Any:
    """The value of a field; `translation.en` looks into the object `translation`."""
    if name in row or "." not in name:
        return row.get(name)
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def has(row: dict[str, Any], name: str) -> bool:
    """True if a row has a field, empty or not."""
    return name in row or ("." in name and lookup(row, name) is not None)


def conversation_field(row: dict[str, Any], columns: Columns) -> str | None:
    """The field that holds a conversation; None where there is none."""
    if has(row, columns.messages) and (
        lookup(row, columns.messages) is not None or pair_fields(row, columns) is None
    ):
        return columns.messages
    if columns.messages != _DEFAULT.messages:
        return None
    return next((name for name in CONVERSATIONS if _is_conversation(row.get(name))), None)


def _is_conversation(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    if isinstance(value, dict):  # a sequence of objects, as `datasets` keeps it
        return bool(value) and all(isinstance(one, list) for one in value.values())
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def pair_fields(row: dict[str, Any], columns: Columns) -> Fields | None:
    """The fields of question and answer: the study's, or the first usual ones that are there.

    A table of several data sets has the columns of all of them, empty where a row has others.
    """
    own = (lookup(row, columns.prompt), lookup(row, columns.response))
    is_usual = (columns.prompt, columns.response) == (_DEFAULT.prompt, _DEFAULT.response)
    is_there = has(row, columns.prompt) and has(row, columns.response)
    if is_there and (not is_usual or None not in own):
        return Fields(columns.prompt, columns.query, columns.response)
    if not is_usual:
        return None
    there = [Fields(*names) for names in PAIRS if names[0] in row and names[2] in row]
    filled = (one for one in there if row[one.prompt] is not None and row[one.response] is not None)
    return next(filled, there[0] if there else None)


def usual_names(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The row with its fields in lower case if they are known so alone, as `Instruction` in a
    spreadsheet; fields that `columns` names stay as they are."""
    lowered = {str(name).strip().lower(): value for name, value in row.items()}
    if columns != _DEFAULT or len(lowered) < len(row) or _is_known(row):
        return row
    return lowered if _is_known(lowered) else row


def _is_known(row: dict[str, Any]) -> bool:
    fields = conversation_field(row, _DEFAULT) or pair_fields(row, _DEFAULT)
    return bool(fields) or has(row, _DEFAULT.text)


def system_field(row: dict[str, Any], columns: Columns) -> str:
    """The field of the system message, there or not."""
    return _first_there(row, columns.system, SYSTEMS, _DEFAULT.system)


def tools_field(row: dict[str, Any], columns: Columns) -> str:
    """The field of the functions that may be called, there or not."""
    return _first_there(row, columns.tools, TOOLS, _DEFAULT.tools)


def _first_there(row: dict[str, Any], own: str, usual: tuple[str, ...], default: str) -> str:
    names = usual if own == default else (own,)
    return next((name for name in names if has(row, name)), own)


def field_names(row: Any) -> Iterator[str]:
    """A row's fields for a message; those of inner objects as `translation.en`."""
    if not isinstance(row, dict):
        return
    for key in sorted(map(str, row)):
        inner = row.get(key)
        if isinstance(inner, dict):
            yield from (f"{key}.{name}" for name in sorted(map(str, inner)))
        else:
            yield key
