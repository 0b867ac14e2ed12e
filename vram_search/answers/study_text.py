"""Sets keys in the text of a study file and keeps its comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from vram_search.spec.load import apply_override, parse_mapping


def with_overrides(text: str, overrides: Sequence[str]) -> str:
    """The text of a study with further keys, as `run --set` would read it.

    Args:
        text: sections of one level, each key on a line of its own.
        overrides: texts "key.inner=value"; values are YAML.

    Raises:
        InputError: an override is none.
    """
    for override in overrides:
        data = parse_mapping(text, "the study")
        before = parse_mapping(text, "the study")
        apply_override(data, override)
        for section, value in data.items():
            if before.get(section) == value:
                continue
            old = before.get(section)
            if isinstance(value, dict) and isinstance(old, dict):
                for key in (one for one in value if old.get(one, ...) != value[one]):
                    text = _set_inner(text, section, key, value[key])
            else:
                text = _set_top(text, section, value)
    return text


def _set_top(text: str, key: str, value: Any) -> str:
    """Replaces a key of the first level and its inner lines, or adds it at the end."""
    line = f"{key}: {flow_text(value)}\n"
    pattern = re.compile(rf"^{re.escape(key)}:.*\n(?:[ ]+.*\n)*", re.MULTILINE)
    return pattern.sub(lambda _: line, text, count=1) if pattern.search(text) else text + line


def _set_inner(text: str, section: str, key: str, value: Any) -> str:
    """Replaces a key of a section, or adds it as the section's first one."""
    line = f"  {key}: {flow_text(value)}\n"
    head = re.compile(rf"^{re.escape(section)}:.*\n(?:[ ]+.*\n)*", re.MULTILINE)

    def changed(found: re.Match[str]) -> str:
        block = found[0]
        own = re.compile(rf"^  {re.escape(key)}:.*\n", re.MULTILINE)
        if own.search(block):
            return own.sub(lambda _: line, block, count=1)
        first, rest = block.split("\n", 1)
        return f"{first}\n{line}{rest}"

    return head.sub(changed, text, count=1)


def flow_text(value: Any) -> str:
    """A value as YAML on one line: a text with `: `, ` #` or another sign of YAML in quotes."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
