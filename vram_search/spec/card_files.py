"""Reads the shipped cards: configs/cards.

Their files are YAML of one level, which a test compares with PyYAML. Importing PyYAML takes longer
than all else that reading a card does.
"""

from __future__ import annotations

import json
import re
from typing import Any

from vram_search.resources import shipped

_LINE = re.compile(r'(\w+): ("?)([^"#]*?)\2(?:\s+#.*)?')
"""A key, quotes, a value and a comment."""


def card_names() -> list[str]:
    """Slugs of the shipped cards."""
    return sorted(path.stem for path in shipped("configs", "cards").glob("*.yaml"))


def load_card(slug: str) -> dict[str, Any]:
    """Loads the fields of a shipped card without validating them.

    Raises:
        ValueError: no card of that name is shipped.
    """
    path = shipped("configs", "cards", f"{slug}.yaml")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", slug) or not path.is_file():
        raise ValueError(f"no card {slug!r} is shipped")
    lines = (_LINE.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line[1]: line[3] if line[2] else _value(line[3]) for line in lines if line}


def _value(text: str) -> Any:
    """A number or a truth value; every other text stays one."""
    try:
        return json.loads(text)
    except ValueError:
        return text
