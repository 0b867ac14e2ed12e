"""Writes `chat_rows.py`, which finds the answers in a conversation as a study does.

An exported script runs where vram-search is not installed. It therefore gets the modules of `data/`
that need the standard library and Jinja alone, one after the other in one file.
"""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

from vram_search.data import chat, chat_abilities, chat_messages, chat_render, example, packing

CHAT_ROWS = "chat_rows.py"
_MODULES: tuple[ModuleType, ...] = (
    example,
    chat_abilities,
    chat_messages,
    chat_render,
    chat,
    packing,
)
"""In the order of their imports."""
_HEAD = '''\
"""Finds the answers in a conversation that a chat template has rendered (part of vram-search)."""

from __future__ import annotations
'''


def chat_rows_script() -> str:
    """Returns the text of `chat_rows.py`."""
    return "\n\n".join([_HEAD, *map(_body, _MODULES)]) + "\n"


def _body(module: ModuleType) -> str:
    """A module's text without its docstring and the imports of this package."""
    text = inspect.getsource(module)
    lines = text.splitlines()
    for number, node in enumerate(ast.parse(text).body):
        is_docstring = number == 0 and isinstance(node, ast.Expr)
        is_left_out = isinstance(node, ast.ImportFrom) and (
            (node.module or "").startswith("vram_search") or node.module == "__future__"
        )
        if is_docstring or is_left_out:
            for line in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[line] = ""
    return "\n".join(lines).strip()
