"""Changes an input: the values in its JSON and YAML, or its bytes; by a seed."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import yaml

Files = dict[str, bytes]
"""An input: the content of each of its files by relative path."""

NUMBERS = (0, -1, 1, 2, 7, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 1e-320, 0.1)
NONFINITE = (float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "",
    " ",
    "x" * 5000,
    "a\x00b",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202eevil",
    "\ud800",
    "../../../etc/passwd",
    "/dev/zero",
    "C:\\x",
    "~",
    "nan",
    "1e999",
    "\u0661\u0662",
    "-0",
    "0x10",
    "12 GiB",
    "1:30:00",
    "null",
    "true",
    "{{ 7*7 }}",
    "<script>alert(1)</script>",
    "'; DROP TABLE vs_trials; --",
    "%s%n",
    "postgresql://u:p@h/d?password=x",
    "all",
    "q_proj",
    "adamw_8bit",
)
YAML_PIECES = (
    "!!timestamp x",
    "!!bool maybe",
    '!!int ""',
    "!!float x",
    "!!python/object/apply:os.system [id]",
    "!!binary 5",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "&a [*a]",
    "*nothing",
    "<<: {a: 1}",
    "? [a, b] : c",
    "2024-13-45",
    "1_000",
    "0b2",
    "- - - -",
    "{" * 200,
    "[" * 200,
    "9" * 400,
    "\t",
    "---\n...\n---",
    "%YAML 9.9",
    '"\\ud800"',
)


def mutate(choose: random.Random, files: Files, donors: list[Files]) -> Files:
    """Returns a changed copy of an input.

    Args:
        donors: inputs of the same kind; parts of them are put in.
    """
    changed = dict(files)
    for _ in range(choose.choice((1, 1, 1, 2, 3, 6))):
        name = choose.choice(sorted(changed))
        donor = choose.choice(donors)
        other = donor.get(name, changed[name])
        changed[name] = _mutate_file(choose, name, changed[name], other)
    if len(changed) > 1 and choose.random() < 0.03:
        changed.pop(choose.choice(sorted(changed)))
    return changed


def _mutate_file(choose: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    way = choose.random()
    if way < 0.2:
        return _mutate_bytes(choose, data, other)
    if name.endswith((".yaml", ".yml")) and way < 0.4:
        return _insert(choose, data, choose.choice(YAML_PIECES).encode("utf-8", "surrogatepass"))
    lines = name.endswith(".jsonl")
    try:
        if lines:
            value: Any = [json.loads(line) for line in data.splitlines() if line.strip()]
            donor: Any = [json.loads(line) for line in other.splitlines() if line.strip()]
        elif name.endswith((".yaml", ".yml")):
            value, donor = yaml.safe_load(data), yaml.safe_load(other)
        else:
            value, donor = json.loads(data), json.loads(other)
        value = mutate_value(choose, value, donor)
        return _written(name, value, lines=lines)
    except Exception:  # PyYAML's constructors raise anything; the bytes are changed then
        return _mutate_bytes(choose, data, other)


def _written(name: str, value: Any, *, lines: bool) -> bytes:
    if lines:
        rows = value if isinstance(value, list) else [value]
        return "\n".join(json.dumps(row) for row in rows).encode()
    if name.endswith((".yaml", ".yml")):
        text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
        return text.encode("utf-8", "surrogatepass")
    return json.dumps(value).encode()


def mutate_value(choose: random.Random, value: Any, donor: Any) -> Any:
    """Returns a JSON value with one of its parts changed."""
    paths = list(_paths(value))
    path = choose.choice(paths)
    return _replaced(value, path, lambda old: _changed(choose, old, donor))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:50]))
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    if not path:
        return change(value)
    key, *rest = path
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[key] = _replaced(value[key], tuple(rest), change)
    return copied


def _changed(choose: random.Random, old: Any, donor: Any) -> Any:
    way = choose.randrange(12)
    if isinstance(old, dict) and old and way < 6:
        key = choose.choice(list(old))
        return _changed_mapping(choose, old, key, donor)
    if isinstance(old, list) and way < 6:
        return _changed_list(choose, old)
    if isinstance(old, bool):
        return choose.choice((not old, "yes", 1, None, [old]))
    if isinstance(old, int | float) and way < 8:
        return choose.choice((old + 1, old - 1, -old, old * 2, old / 3, str(old), float(old)))
    if isinstance(old, str) and way < 4:
        return choose.choice((old.upper(), old + "x", old[:-1], old * 3, [old], {old: old}))
    return hostile(choose, old, donor)


def _changed_mapping(choose: random.Random, old: dict[Any, Any], key: Any, donor: Any) -> Any:
    way = choose.randrange(6)
    changed = dict(old)
    if way == 0:
        del changed[key]
    elif way == 1:
        changed[choose.choice(TEXTS)] = changed.pop(key)
    elif way == 2:
        changed[choose.choice((1, None, True, 1.5, "x"))] = changed[key]
    elif way == 3:
        changed[key] = changed[choose.choice(list(old))]
    elif way == 4 and isinstance(donor, dict):
        changed |= {k: v for k, v in donor.items() if choose.random() < 0.5}
    else:
        changed[f"{key}_"] = changed[key]
    return changed


def _changed_list(choose: random.Random, old: list[Any]) -> list[Any]:
    way = choose.randrange(5)
    if way == 0:
        return []
    if way == 1:
        return old * choose.choice((2, 50))
    if way == 2 and old:
        return old[: choose.randrange(len(old))]
    if way == 3:
        return [old]
    return [*old, choose.choice((None, 1, "x", [], {}))]


def hostile(choose: random.Random, old: Any, donor: Any) -> Any:
    """A value that does not belong where it is put."""
    way = choose.randrange(8)
    if way == 0:
        return choose.choice(NUMBERS)
    if way == 1:
        return choose.choice(NONFINITE)
    if way == 2:
        return choose.choice((None, True, False, [], {}, [[]], {"": None}))
    if way == 3:
        deep: Any = old
        for _ in range(choose.choice((3, 60, 400))):
            deep = choose.choice(([deep], {"a": deep}))
        return deep
    if way == 4:
        return donor
    return choose.choice(TEXTS)


def _insert(choose: random.Random, data: bytes, piece: bytes) -> bytes:
    lines = data.split(b"\n")
    at = choose.randrange(len(lines))
    way = choose.randrange(3)
    if way == 0:
        lines.insert(at, piece)
    elif way == 1 and b":" in lines[at]:
        lines[at] = lines[at].partition(b":")[0] + b": " + piece
    else:
        lines[at] += b" " + piece
    return b"\n".join(lines)


def _mutate_bytes(choose: random.Random, data: bytes, other: bytes) -> bytes:
    way, at = choose.randrange(7), choose.randrange(len(data) + 1)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([choose.randrange(256)]) + data[at + 1 :]
    if way == 2:
        return data[:at] + choose.randbytes(choose.choice((1, 4, 16))) + data[at:]
    if way == 3:
        return data[:at] + other[choose.randrange(len(other) + 1) :]
    if way == 4:
        return data[:at] + data[at : at + 20] * 5 + data[at:]
    if way == 5:
        return data[:at] + data[at + choose.choice((1, 3, 20)) :]
    return data.replace(b'"', b"'", 1) if choose.random() < 0.5 else data.replace(b":", b"=", 1)


def packed(files: Files) -> str:
    """An input as JSON, for the corpus."""
    return json.dumps(
        {
            name: base64.b64encode(data).decode() if not _is_text(data) else {"text": data.decode()}
            for name, data in files.items()
        },
        indent=1,
    )


def unpacked(text: str) -> Files:
    """An input of the corpus."""
    return {
        name: kept["text"].encode() if isinstance(kept, dict) else base64.b64decode(kept)
        for name, kept in json.loads(text).items()
    }


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
