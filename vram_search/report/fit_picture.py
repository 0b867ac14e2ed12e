"""The picture of what fits a card: cutoff_len by micro-batch, for a terminal and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Protocol

from vram_search.units import GIB, format_bytes, percent

TIGHT = 0.95
"""Share of the budget above which a cell is marked: the prediction's error may decide."""
DOES_NOT_FIT_MARK, TIGHT_MARK = "no", "!"

_RAMP = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""viridis at 0, 0.2, ... 1 (matplotlib `_cm_listed.py`)."""
_ANSI_RAMP = (53, 60, 30, 36, 113, 220)
"""The nearest of xterm's 256 colours."""
_ANSI_LIGHT_TEXT = 4
"""Ramp colours before this one are dark: white text on them, black on the others."""
_DARK_BELOW = 0.6
"""Share of the ramp up to which it is dark."""
_GREY = "#ececec"
"""Colour of configurations that do not fit."""
_CELL, _ROW = 9, 10
_WIDTH, _HEIGHT, _LEFT, _TOP = 84, 34, 110, 92
"""Pixels of an SVG cell, and of the margin that holds titles and labels."""
_LEGEND_WIDTH = 204
_TITLE_LETTERS, _SUBTITLE_LETTERS = 58, 90
"""The number that fits the picture's width at their sizes."""


class Cell(Protocol):
    """One cutoff_len with one micro-batch."""

    @property
    def cutoff_len(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def required_bytes(self) -> int: ...
    @property
    def share(self) -> float: ...
    @property
    def fits(self) -> bool: ...


Grid = Sequence[Sequence[Cell]]
"""Rows of cells; a row has one cutoff_len, a column one micro-batch."""


def mark(cell: Cell) -> str:
    """`no` does not fit, `!` fits with less than 5 % to spare, else nothing."""
    if not cell.fits:
        return DOES_NOT_FIT_MARK
    return TIGHT_MARK if cell.share > TIGHT else ""


def _label(cell: Cell) -> str:
    return f"{cell.required_bytes / GIB:.1f} {mark(cell):<2}"


def grid_lines(grid: Grid, budget_bytes: int, *, colour: bool) -> list[str]:
    """The grid for a terminal, at most 80 columns; the same letters with and without colour."""
    batches = "".join(f"{cell.micro_batch:>{_CELL - 3}}   " for cell in grid[0])
    lines = [f"  {'cutoff_len':<{_ROW}}  micro-batch", f"  {'':<{_ROW}}{batches}".rstrip()]
    for row in grid:
        cells = "".join(_painted(cell) if colour else f"{_label(cell):>{_CELL}}" for cell in row)
        lines.append(f"  {row[0].cutoff_len:>{_ROW}}{cells}".rstrip())
    budget = format_bytes(budget_bytes)
    lines.append(f"  {DOES_NOT_FIT_MARK}: does not fit {budget}; {TIGHT_MARK}: over 95 % of it")
    return lines


def _painted(cell: Cell) -> str:
    text = f"{_label(cell):>{_CELL}}"
    if not cell.fits:
        return f"\x1b[2m{text}\x1b[0m"
    step = _step(cell.share)
    letters = 231 if step < _ANSI_LIGHT_TEXT else 16
    return f"\x1b[38;5;{letters};48;5;{_ANSI_RAMP[step]}m{text}\x1b[0m"


def _step(share: float) -> int:
    """Which of the six colours of a ramp is nearest."""
    return round(min(max(share, 0.0), 1.0) * (len(_RAMP) - 1))


def grid_svg(grid: Grid, budget_bytes: int, title: str, subtitle: str) -> str:
    """The grid as an SVG document that refers to no other file."""
    columns, rows = len(grid[0]), len(grid)
    width, bottom = _LEFT + columns * _WIDTH + 20, _TOP + rows * _HEIGHT
    middle_x, middle_y = _LEFT + columns * _WIDTH / 2, _TOP + rows * _HEIGHT / 2
    body = [
        _text(20, 26, _shortened(title, _TITLE_LETTERS), "font-size='16' font-weight='bold'"),
        _text(20, 46, _shortened(subtitle, _SUBTITLE_LETTERS), "fill='#555'"),
        _text(middle_x, 70, "micro-batch (per_device_train_batch_size)", _MIDDLE),
        _text(
            26, middle_y, "cutoff_len (tokens)", f"{_MIDDLE} transform='rotate(-90 26 {middle_y})'"
        ),
    ]
    for column, cell in enumerate(grid[0]):
        x = _LEFT + (column + 0.5) * _WIDTH
        body.append(_text(x, _TOP - 6, str(cell.micro_batch), _MIDDLE))
    for index, row in enumerate(grid):
        y = _TOP + index * _HEIGHT
        baseline = y + _HEIGHT / 2 + 4
        body.append(_text(_LEFT - 8, baseline, str(row[0].cutoff_len), "text-anchor='end'"))
        for column, cell in enumerate(row):
            body += _svg_cell(cell, _LEFT + column * _WIDTH, y)
    body += _legend(bottom + 24, budget_bytes)
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{bottom + 80}' "
            f"viewBox='0 0 {width} {bottom + 80}' font-family='sans-serif' font-size='12' "
            "role='img'>",
            f"<title>{_safe(title)}</title>",
            f"<defs>{_gradient()}</defs>",
            "<rect width='100%' height='100%' fill='white'/>",
            *body,
            "</svg>\n",
        ]
    )


_MIDDLE = "text-anchor='middle'"


def _svg_cell(cell: Cell, x: float, y: float) -> list[str]:
    if not cell.fits:
        fill, letters = _GREY, "#666"
    else:
        fill = colour_of(cell.share)
        letters = "white" if cell.share < _DARK_BELOW else "black"
    words = "fits" if cell.fits else "does not fit"
    tip = (
        f"cutoff_len {cell.cutoff_len}, micro-batch {cell.micro_batch}: "
        f"{format_bytes(cell.required_bytes)}, {percent(cell.share)} of the VRAM limit, {words}"
    )
    return [
        f"<rect x='{x}' y='{y}' width='{_WIDTH}' height='{_HEIGHT}' fill='{fill}' stroke='white'>"
        f"<title>{_safe(tip)}</title></rect>",
        _text(
            x + _WIDTH / 2,
            y + _HEIGHT / 2 + 4,
            _label(cell).strip(),
            f"{_MIDDLE} fill='{letters}'",
        ),
    ]


def _legend(y: float, budget_bytes: int) -> list[str]:
    right = _LEFT + _LEGEND_WIDTH + 30
    return [
        _box(_LEFT, y, _LEGEND_WIDTH, 14, "url(#ramp)"),
        _text(_LEFT, y + 30, "0"),
        _text(
            _LEFT + _LEGEND_WIDTH,
            y + 30,
            f"budget {format_bytes(budget_bytes)}",
            "text-anchor='end'",
        ),
        _box(right, y, 28, 14, _GREY),
        _text(right + 36, y + 12, f"{DOES_NOT_FIT_MARK}  does not fit"),
        _text(right + 36, y + 30, f"{TIGHT_MARK}  over 95 % of the VRAM limit"),
        _text(20, y + 12, "GiB needed"),
    ]


def _gradient() -> str:
    last = len(_RAMP) - 1
    stops = "".join(
        f"<stop offset='{index / last:g}' stop-color='{colour}'/>"
        for index, colour in enumerate(_RAMP)
    )
    return f"<linearGradient id='ramp'>{stops}</linearGradient>"


def colour_of(share: float) -> str:
    """The ramp's colour at a share of the budget, "#rrggbb"; shares are held within 0 and 1."""
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    low, high = _channels(_RAMP[index]), _channels(_RAMP[index + 1])
    mixed = (round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5))


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f"<rect x='{x}' y='{y}' width='{width}' height='{height}' fill='{fill}'/>"


def _text(x: float, y: float, words: str, attributes: str = "") -> str:
    return f"<text x='{x}' y='{y}' {attributes}>{_safe(words)}</text>"


def _shortened(words: str, letters: int) -> str:
    return words if len(words) <= letters else words[: letters - 3] + "..."


def _safe(words: str) -> str:
    """Text for XML, which knows no control characters, not even escaped."""
    return escape("".join(sign if sign.isprintable() else " " for sign in words))
