"""Elements of a chart as SVG text; colours are CSS classes (`chart.css`), so that themes differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from vram_search.report.page.scales import Scale

WIDTH = 480
"""Width of every chart, in user units: its letters are still readable on a narrow screen."""
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 14, 44
"""Around the plotting area."""
LETTER_WIDTH = 6.6
"""Width of an average letter at 12 px, to keep labels apart."""

Tip = str | int
"""Words shown for a mark; or a trial's number, whose words are among the page's data."""

STYLE = Path(__file__).with_name("chart.css")


@dataclass(frozen=True)
class Chart:
    """A finished chart.

    Attributes:
        key: for file names and anchors.
        summary: what it shows, for a reader who cannot see it.
        legend: marks as SVG and their meaning.
    """

    key: str
    title: str
    summary: str
    height: int
    body: str
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()

    @property
    def is_empty(self) -> bool:
        """There is nothing to draw; `caption` says why."""
        return not self.body

    def svg(self) -> str:
        """The picture for a page that has the styles; arrow keys walk its marks."""
        return (
            f"<svg class='chart' viewBox='0 0 {WIDTH} {self.height}' role='img' tabindex='0' "
            f"aria-label='{safe(self.title)}. {safe(self.summary)}'>{self.body}</svg>"
        )

    def document(self, style: str = "") -> str:
        """The picture as a file of its own, with title and legend.

        Args:
            style: CSS; default: that of the pages, light or dark as the viewer wishes.
        """
        body, height = [], 30
        body.append(text(LEFT, 20, self.title, "title"))
        body.append(f"<g transform='translate(0 {height})'>{self.body}</g>")
        height += self.height
        rows, x = [], float(LEFT)
        for mark, words in self.legend:
            width = 36 + len(words) * LETTER_WIDTH
            if x + width > WIDTH and x > LEFT:
                x, height = float(LEFT), height + 18
            rows.append(f"<g transform='translate({x:.0f} {height})'>{mark}</g>")
            rows.append(text(x + 22, height + 11, words, "label"))
            x += width
        height += 26 if self.legend else 4
        style = style or STYLE.read_text(encoding="utf-8")
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
            f"viewBox='0 0 {WIDTH} {height}' class='chart' role='img'>"
            f"<title>{safe(self.title)}</title><desc>{safe(self.summary)}</desc>"
            f"<style>{style}</style><rect class='paper' width='100%' height='100%'/>"
            f"{''.join(body)}{''.join(rows)}</svg>\n"
        )


@dataclass
class Plot:
    """A plotting area with axes, to which marks are added."""

    x: Scale
    y: Scale
    height: int
    parts: list[str] = field(default_factory=list)

    def axes(self, x_name: str, y_name: str) -> None:
        """Grid, ticks and names. Labels of the x axis that would touch are left out."""
        left, right = self.x.start, self.x.end
        bottom, top = self.y.start, self.y.end
        for value, label in self.y.labels.items():
            y = self.y.pixel(value)
            self.parts.append(line(left, y, right, y, "grid"))
            self.parts.append(text(left - 6, y + 4, label, "tick end"))
        self.parts.append(line(left, bottom, right, bottom, "axis"))
        free_from = -math.inf
        for value, label in self.x.labels.items():
            x = self.x.pixel(value)
            self.parts.append(line(x, bottom, x, bottom + 4, "axis"))
            half = len(label) * LETTER_WIDTH / 2
            x = min(x, WIDTH - half - 1)
            if x - half < free_from:
                continue
            self.parts.append(text(x, bottom + 17, label, "tick middle"))
            free_from = x + half + 6
        self.parts.append(text((left + right) / 2, bottom + 36, x_name, "name middle"))
        middle = (top + bottom) / 2
        turned = f"transform='rotate(-90 13 {middle:.0f})'"
        self.parts.append(text(13, middle, y_name, "name middle", turned))

    def mark(
        self, shape: str, x: float, y: float, style: str, tip: Tip = "", size: float = 4
    ) -> None:
        """A mark at a value; `tip` is shown for it."""
        self.parts.append(mark(shape, self.x.pixel(x), self.y.pixel(y), size, style, tip))

    def curve(self, points: Iterable[tuple[float, float]], style: str, tip: Tip = "") -> None:
        """A line through values."""
        pixels = [(self.x.pixel(x), self.y.pixel(y)) for x, y in points]
        self.parts.append(path(pixels, style, tip))

    @property
    def body(self) -> str:
        return "".join(self.parts)


def plot_area(height: int, top: int = TOP) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pixels of the x and the y axis, each from its low end."""
    return (LEFT, WIDTH - RIGHT), (height - BOTTOM, top)


def safe(words: object) -> str:
    """Text for HTML and XML, which knows no control characters, not even escaped."""
    return escape("".join(sign if sign.isprintable() else " " for sign in str(words)))


def text(x: float, y: float, words: str, style: str, attributes: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' class='{style}' {attributes}>{safe(words)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' class='{style}'/>"


def box(x: float, y: float, width: float, height: float, style: str, tip: Tip = "") -> str:
    return (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(width, 0):.1f}' height='{height:.1f}' "
        f"class='{style}'{_tip(tip)}/>"
    )


def path(pixels: Iterable[tuple[float, float]], style: str, tip: Tip = "") -> str:
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
    return f"<path d='M{points}' class='{style}'{_tip(tip)}/>"


def mark(shape: str, x: float, y: float, size: float, style: str, tip: Tip = "") -> str:
    """A circle, one of POLYGONS, or a "cross" or "plus"; `size` from its middle to its edge."""
    if shape == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{size:g}' class='{style}'{_tip(tip)}/>"
    if shape in STROKES:
        strokes = "".join(
            f"M{x + size * a:.1f} {y + size * b:.1f}L{x - size * a:.1f} {y - size * b:.1f}"
            for a, b in STROKES[shape]
        )
        return f"<path d='{strokes}' class='stroke {style}'{_tip(tip)}/>"
    points = "L".join(f"{x + size * a:.1f} {y + size * b:.1f}" for a, b in POLYGONS[shape])
    return f"<path d='M{points}Z' class='{style}'{_tip(tip)}/>"


def _corners(count: int, radius: float, turn: float) -> list[tuple[float, float]]:
    angles = (math.radians(turn + 360 * place / count) for place in range(count))
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _star() -> list[tuple[float, float]]:
    points = zip(_corners(5, 1.8, -90), _corners(5, 0.8, -54), strict=True)
    return [corner for pair in points for corner in pair]


POLYGONS = {
    "triangle": _corners(3, 1.25, -90),
    "down": _corners(3, 1.25, 90),
    "square": _corners(4, 1.25, 45),
    "diamond": _corners(4, 1.35, 0),
    "star": _star(),
}
STROKES = {"cross": [(0.9, 0.9), (0.9, -0.9)], "plus": [(1.2, 0.0), (0.0, 1.2)]}


def _tip(tip: Tip) -> str:
    if isinstance(tip, int):
        return f" data-trial='{tip}'"
    return f" data-tip='{safe(tip)}'" if tip else ""
