"""The parts of a predicted peak as text: a stacked bar, and a difference of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vram_search.report.wrapping import answer_width
from vram_search.units import format_bytes

_NAME_WIDTH = 20
_BYTES_WIDTH = 10
_BESIDE_BAR = _NAME_WIDTH + _BYTES_WIDTH + 4
"""Columns of a row before its bar."""
SHOWN_BUDGETS = 2
"""A budget of more than so many times what is needed is drawn cut off."""


def stacked_bar(parts: Mapping[str, int], required_bytes: int, budget_bytes: int) -> list[str]:
    """A row a part, each bar beginning where the one above ends, as wide as an answer.

    The last rows are the allocator's slack up to `required_bytes`, the sum and the VRAM limit.
    """
    rows = dict(parts)
    slack = required_bytes - sum(parts.values())
    if slack > 0:
        rows["allocator_slack"] = slack
    full = max(required_bytes, min(budget_bytes, SHOWN_BUDGETS * required_bytes), 1)
    lines, before, width = [], 0, answer_width() - _BESIDE_BAR
    for name, size in rows.items():
        start = min(round(before / full * width), width - 1)
        end = min(max(start + 1, round((before + size) / full * width)), width)
        lines.append(_row(name, size, " " * start + "#" * (end - start)))
        before += size
    lines.append(_row("VRAM needed", required_bytes, _bar(required_bytes / full, width, "=")))
    lines.append(_row("VRAM limit", budget_bytes, _bar(budget_bytes / full, width, "-")))
    return lines


def _bar(share: float, width: int, mark: str) -> str:
    if share > 1:
        return mark * (width - 1) + ">"
    return mark * max(0, round(share * width))


def _row(name: str, size: int, bar: str) -> str:
    return f"{_cut(name):<{_NAME_WIDTH}}  {format_bytes(size):>{_BYTES_WIDTH}}  {bar}".rstrip()


def _cut(name: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= _NAME_WIDTH else printable[: _NAME_WIDTH - 3] + "..."


@dataclass(frozen=True)
class PartDifference:
    """One part's bytes on both sides; 0 where a side lacks it."""

    name: str
    a_bytes: int
    b_bytes: int

    @property
    def difference_bytes(self) -> int:
        return self.b_bytes - self.a_bytes


def part_differences(a: Mapping[str, int], b: Mapping[str, int]) -> list[PartDifference]:
    """Every part of either side, the largest difference first."""
    found = [PartDifference(name, a.get(name, 0), b.get(name, 0)) for name in dict(a) | dict(b)]
    return sorted(found, key=lambda part: -abs(part.difference_bytes))


def difference_lines(rows: list[PartDifference]) -> list[str]:
    """A table of name, A, B and B - A."""
    head = f"{'':<{_NAME_WIDTH}}  {'A':>{_BYTES_WIDTH}}  {'B':>{_BYTES_WIDTH}}  {'B - A':>11}"
    return [head, *(_difference_row(row) for row in rows)]


def _difference_row(row: PartDifference) -> str:
    return (
        f"{_cut(row.name):<{_NAME_WIDTH}}  {_size(row.a_bytes):>{_BYTES_WIDTH}}  "
        f"{_size(row.b_bytes):>{_BYTES_WIDTH}}  {_signed(row.difference_bytes):>11}"
    )


def _size(count: int) -> str:
    return format_bytes(count) if count else "-"


def _signed(count: int) -> str:
    if count == 0:
        return "-"
    return f"{'+' if count > 0 else '-'}{format_bytes(abs(count))}"
