"""Which fields of a row hold what: the study's names, or the usual ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vram_search.spec.dataset import Columns

CONVERSATIONS = (
    *("messages", "conversations", "conversation", "dialogue", "dialog", "chat"),
    *("contents", "turns"),  # Gemini, MT-Bench
    "data",  # UltraChat
    "chat_messages",  # Claude's export
)
PAIRS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),  # dolly
    ("instruction", "input", "response"),
    ("prompt", "", "completion"),  # TRL
    ("prompt", "", "response"),
    ("question", "context", "answer"),  # gsm8k, without a context
    ("question", "context", "response"),  # OpenOrca
    ("query", "", "response"),
    ("query", "", "answer"),
    ("problem", "", "solution"),
    ("input", "", "output"),
    ("inputs", "", "targets"),
    ("user", "", "assistant"),
)
"""(question, added to it, answer), in order of preference."""
QUESTIONS = ("instruction", "prompt", "question", "query", "problem", "input", "user", "human")
ANSWERS = ("output", "completion", "response", "answer", "solution", "assistant", "gpt", "target")
"""Names that make a pair too if a row has one of each."""
SYSTEMS = (
    *("system", "system_prompt", "system_message", "systemInstruction", "system_instruction"),
)
TOOLS = ("tools", "functions")
ROLE_KEYS = ("role", "from", "speaker", "sender")
"""Keys of a message's role."""
BESIDE = ("context", "passage", "source", "path", "lang", "language")
"""Texts beside a question, which are no answers."""
_CHATGPT = {"mapping", "current_node"}
"""Keys of a conversation in ChatGPT's export."""
_SENTENCE = re.compile(r"[^\w .\-/\[\]()]|\w{41}")
"""Signs of a text, which no name of a column holds."""
_NO_TEXTS = ("id", "uuid", "hash", "url", "role", "title", "category", "type")
_DEFAULT = Columns()


@dataclass(frozen=True)
class Fields:
    """Names of the fields in which a row of a question and an answer has its texts."""

    prompt: str
    query: str
    response: str


def is_nothing(value: Any) -> bool:
    """True for null, and for NaN, which pandas writes for an empty cell."""
    return value is None or (isinstance(value, float) and math.isnan(value))


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
    if columns.messages == _DEFAULT.messages and _names_its_pair(row, columns):
        return None
    if has(row, columns.messages) and (
        lookup(row, columns.messages) is not None or pair_fields(row, columns) is None
    ):
        return columns.messages
    if columns.messages != _DEFAULT.messages:
        return None
    return next((name for name in CONVERSATIONS if _is_conversation(row.get(name))), None)


def _names_its_pair(row: dict[str, Any], columns: Columns) -> bool:
    """True if the study names a question and an answer that the row has."""
    is_usual = (columns.prompt, columns.response) == (_DEFAULT.prompt, _DEFAULT.response)
    return not is_usual and has(row, columns.prompt) and has(row, columns.response)


def _is_conversation(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    if isinstance(value, dict):  # a sequence of objects, as `datasets` keeps it
        is_sequence = len(value) > 1 and all(isinstance(one, list) for one in value.values())
        return is_sequence and len({len(one) for one in value.values()}) == 1
    if not isinstance(value, list) or not value:
        return False
    return isinstance(value[0], dict) or is_alternating(value)


def is_alternating(value: list[Any]) -> bool:
    """True for texts of user and assistant in turn, as LIMA and UltraChat keep them."""
    return len(value) > 1 and all(isinstance(text, str) for text in value)


def pair_fields(row: dict[str, Any], columns: Columns) -> Fields | None:
    """The fields of question and answer: the study's, or the first usual ones that are there.

    A table of several data sets has the columns of all of them, empty where a row has others.
    """
    own = (lookup(row, columns.prompt), lookup(row, columns.response))
    if _names_its_pair(row, columns) or None not in own:
        return Fields(columns.prompt, columns.query, columns.response)
    if (columns.prompt, columns.response) != (_DEFAULT.prompt, _DEFAULT.response):
        return None
    there = [
        Fields(prompt, query if isinstance(row.get(query), str | None) else "", response)
        for prompt, query, response in PAIRS
        if prompt in row and response in row
    ]
    questions, answers = ([name for name in row if name in names] for names in (QUESTIONS, ANSWERS))
    if not there and len(questions) == len(answers) == 1:
        there = [Fields(questions[0], "", answers[0])]
    filled = (one for one in there if row[one.prompt] is not None and row[one.response] is not None)
    return next(filled, there[0] if there else None)


def knows_fields(names: Iterable[str]) -> bool:
    """True if a row with these fields has a form that is known here."""
    return _is_known({name.strip().lower(): "" for name in names})


def is_message(value: Any) -> bool:
    """True for an object that is one message of a conversation."""
    return isinstance(value, dict) and any(key in value for key in ROLE_KEYS)


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


def columns_to_name(row: dict[str, Any]) -> str:
    """Says how a study names the columns of a row of no known form, by the row's own texts."""
    if row.keys() >= _CHATGPT:
        return (
            "this is ChatGPT's export, a tree of messages: write each conversation as "
            '{"messages": [{"role": "user", "content": "..."}, ...]}'
        )
    inner = list(_inner_names(row))
    names = [
        name
        for name in inner
        if isinstance(value := lookup(row, name), str) and value.strip() and not _is_no_text(name)
    ]
    talk = next((name for name in inner if _is_conversation(lookup(row, name))), None)
    if talk is not None:
        chosen = f"{{messages: {talk}}}"
    elif len(names) == 1 and names[0] not in QUESTIONS:
        chosen = f"{{text: {names[0]}}}"
    else:
        question = next((name for name in names if name in QUESTIONS), [*names, "QUESTION"][0])
        others = [name for name in names if name not in (question, *BESIDE)]
        answer = next((name for name in others if name in ANSWERS), [*others, "ANSWER"][0])
        chosen = f"{{prompt: {question}, response: {answer}}}"
        if _SENTENCE.search(question + answer):
            return "the first line of a table holds the names of its columns: question,answer"
    return f"name the fields under dataset.columns, for example --set 'dataset.columns={chosen}'"


def _is_no_text(name: str) -> bool:
    """True for a field that is neither a question nor an answer, by its name."""
    last = name.rpartition(".")[2].lower()
    return last in (*SYSTEMS, *TOOLS, *_NO_TEXTS) or last.endswith(("_id", "_hash", "_url"))


def _inner_names(row: dict[str, Any]) -> Iterator[str]:
    """A row's fields in its order; those of inner objects as `translation.en`."""
    for key, value in row.items():
        yield from (f"{key}.{name}" for name in value) if isinstance(value, dict) else (str(key),)


def field_names(row: Any) -> Iterator[str]:
    """A row's fields for a message; those of inner objects as `translation.en`."""
    if isinstance(row, dict):
        yield from sorted(_inner_names(row))
