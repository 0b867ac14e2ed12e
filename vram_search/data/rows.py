"""Reads JSON and JSONL rows in alpaca or messages form, checks them, and splits them for good."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import Fault, FaultyFileError, InputError
from vram_search.spec.study import Columns, DatasetSpec

_ROLES = ("system", "user", "assistant")
_FAULTS_SHOWN = 10
_HALF_A_CHARACTER = "holds half a character (a lone surrogate such as \\ud83d)"


@dataclass(frozen=True)
class Example:
    """A conversation whose last turn is the assistant's: (role, content) pairs."""

    messages: tuple[tuple[str, str], ...]

    @property
    def turns(self) -> list[dict[str, str]]:
        """As `apply_chat_template` takes them."""
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True)
class Rows:
    """Training and evaluation examples of a study, in file order, and their hash."""

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    data_hash: str


def load_rows(dataset: DatasetSpec, seed: int) -> Rows:
    """The study's rows; the split depends on the rows' count, `val_size` and `seed` alone.

    Raises:
        InputError: a file is empty or cannot be read, or the split leaves nothing.
        FaultyFileError: rows lack a field or hold the wrong type; the first ten are named.
    """
    examples = _load_examples(Path(dataset.train), dataset)
    if dataset.eval is not None:
        train, evaluation = examples, _load_examples(Path(dataset.eval), dataset)
    else:
        train, evaluation = _split(examples, dataset, seed)
    return Rows(tuple(train), tuple(evaluation), _hash(train, evaluation))


def _split(
    examples: list[Example], dataset: DatasetSpec, seed: int
) -> tuple[list[Example], list[Example]]:
    size = dataset.val_size
    count = max(1, round(size * len(examples))) if size < 1 else int(size)
    if count >= len(examples):
        raise InputError(
            f"{dataset.train}: val_size {size:g} leaves no training row of {len(examples)}",
            "set dataset.val_size lower, or name dataset.eval",
        )
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    return (
        [example for i, example in enumerate(examples) if i not in chosen],
        [example for i, example in enumerate(examples) if i in chosen],
    )


def _hash(train: Sequence[Example], evaluation: Sequence[Example]) -> str:
    """Of what is learnt and examined; file names and layout do not count."""
    digest = hashlib.sha256()
    for part in (train, evaluation):
        for example in part:
            digest.update(json.dumps(example.messages, ensure_ascii=False).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _load_examples(path: Path, dataset: DatasetSpec) -> list[Example]:
    rows = _read(path)
    if not rows:
        raise InputError(f"{path}: the data set is empty", "it needs rows to train on")
    parse = _row_parser(dataset.format, rows[0], dataset.columns, path)
    examples, faults = [], []
    for number, row in enumerate(rows[: dataset.max_samples], start=1):
        parsed = parse(row, f"row {number}")
        if isinstance(parsed, Example):
            examples.append(parsed)
        else:
            faults.append(parsed)
    if faults:
        shown = faults[:_FAULTS_SHOWN]
        if len(faults) > len(shown):
            shown.append(Fault("...", f"and {len(faults) - len(shown)} more rows"))
        raise FaultyFileError(str(path), shown)
    return examples


def _read(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if path.suffix == ".jsonl":
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}, line {number}: not JSON ({error})") from None
        return rows
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({error})", "one object a line is JSONL: name the file .jsonl"
        ) from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: a JSON data set is a list of rows")
    return rows


def _row_parser(
    form: str, first: Any, columns: Columns, path: Path
) -> Callable[[Any, str], Example | Fault]:
    if form == "auto":
        keys = set(first) if isinstance(first, dict) else set()
        if columns.messages in keys:
            form = "messages"
        elif {columns.prompt, columns.response} <= keys:
            form = "alpaca"
        else:
            raise InputError(
                f"{path}, row 1: neither alpaca ({columns.prompt!r}, {columns.response!r}) nor "
                f"messages ({columns.messages!r}); its fields: {', '.join(sorted(keys)) or '-'}",
                "name the fields under dataset.columns",
            )
    if form == "alpaca":
        return lambda row, place: _parse_alpaca(row, columns, place)
    return lambda row, place: _parse_messages(row, columns, place)


def _is_encodable(text: str) -> bool:
    """JSON can escape half of a surrogate pair; no tokenizer and no UTF-8 file takes it."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _parse_alpaca(row: Any, columns: Columns, place: str) -> Example | Fault:
    """Instruction and input joined by a line break, as LLaMA-Factory's AlpacaDatasetConverter."""
    if not isinstance(row, dict):
        return Fault(place, "is not an object", row)
    texts = []
    for name, needed in ((columns.prompt, True), (columns.query, False), (columns.response, True)):
        value = row.get(name)
        if value is None and not needed:
            value = ""
        if not isinstance(value, str):
            return Fault(f"{place}.{name}", "is missing" if name not in row else "is not text")
        if needed and not value.strip():
            return Fault(f"{place}.{name}", "is empty")
        if not _is_encodable(value):
            return Fault(f"{place}.{name}", _HALF_A_CHARACTER)
        texts.append(value)
    prompt, query, response = texts
    question = f"{prompt}\n{query}" if query else prompt
    return Example((("user", question), ("assistant", response)))


def _parse_messages(row: Any, columns: Columns, place: str) -> Example | Fault:
    name = columns.messages
    messages = row.get(name) if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        return Fault(f"{place}.{name}", "is not a list of messages")
    pairs: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        at = f"{place}.{name}[{index}]"
        if not isinstance(message, dict):
            return Fault(at, "is not an object")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            return Fault(f"{at}.role", "unknown role", role, ", ".join(_ROLES))
        if not isinstance(content, str) or not content.strip():
            return Fault(f"{at}.content", "is not text, or empty")
        if not _is_encodable(content):
            return Fault(f"{at}.content", _HALF_A_CHARACTER)
        pairs.append((role, content))
    if pairs[-1][0] != "assistant":
        return Fault(f"{place}.{name}", "does not end with the assistant's answer")
    return Example(tuple(pairs))
