"""A chart as PNG: resvg draws its SVG in the light colours, with letters that come in a package.

Fonts of the machine would make another picture on each, and none where there are none.
"""

from __future__ import annotations

import re
from pathlib import Path

from vram_search.errors import InputError
from vram_search.report.page.svg import STYLE, Chart

ZOOM = 2
"""Pixels per user unit: sharp on a dense screen."""
_FAMILY = "Lato"


def render_png(chart: Chart) -> bytes:
    """The chart with title and legend on white.

    Raises:
        InputError: the packages that draw it are missing.
    """
    try:
        import font_lato
        import resvg_py
    except ImportError as error:
        raise InputError(
            f"the package {error.name} is not installed, which draws PNG files (extra: plots)",
            'pip install "resvg-py>=0.5" "font-lato>=0.1", or leave --plot-format out for SVG',
        ) from None
    fonts = Path(font_lato.__file__).parent / "files"
    return resvg_py.svg_to_bytes(
        svg_string=chart.document(light_style()),
        zoom=ZOOM,
        font_family=_FAMILY,
        sans_serif_family=_FAMILY,
        font_dirs=[str(fonts)],
    )


def light_style() -> str:
    """The charts' style without themes and variables, which resvg does not know."""
    style = STYLE.read_text(encoding="utf-8")
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*\s*\}", "", style)
    values = dict(re.findall(r"(--[\w-]+):\s*([^;]+);", style))
    style = re.sub(r"--[\w-]+:[^;]+;", "", style)
    return re.sub(r"var\((--[\w-]+)\)", lambda found: values[found[1]], style)
