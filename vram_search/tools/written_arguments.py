"""Reads the dictionary that a cell of a notebook writes as a training file; no code is run."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_SHELL_LINE = re.compile(r"^\s*[!%].*$", re.MULTILINE)
_FILES = (".json", ".yaml", ".yml")
_DUMPS = ("dump", "dumps", "safe_dump")


def written_arguments(cell: str) -> dict[str, str]:
    """File name -> its contents as JSON, for a cell such as LLaMA-Factory's own notebook has:
    `args = dict(stage="sft", ...)` and `json.dump(args, open("train.json", "w"))`.

    Values that are not plain (the result of a function, a variable) are left out.
    """
    try:
        tree = ast.parse(_SHELL_LINE.sub("", cell))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    nodes = list(ast.walk(tree))
    dictionaries = {
        target.id: values
        for node in nodes
        if isinstance(node, ast.Assign) and (values := _dictionary(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = (n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    files = [name for name in names if name.endswith(_FILES) and " " not in name]
    dumped = [
        dictionaries[node.args[0].id]
        for node in nodes
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _DUMPS
        and node.args
        and isinstance(node.args[0], ast.Name)
        and node.args[0].id in dictionaries
    ]
    return {files[-1]: json.dumps(dumped[-1])} if files and dumped else {}


def _dictionary(node: ast.expr) -> dict[str, Any]:
    """The plain values of `{...}` or `dict(...)`; empty for anything else."""
    pairs: list[tuple[Any, ast.expr]] = []
    if isinstance(node, ast.Dict):
        pairs = [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        ]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        pairs = [(one.arg, one.value) for one in node.keywords if one.arg]
    found = {}
    for key, value in pairs:
        try:
            found[str(key)] = ast.literal_eval(value)
            json.dumps(found[str(key)])
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            found.pop(str(key), None)
    return found
