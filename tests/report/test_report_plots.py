"""`vram-search report --plots`: every chart as a file of its own, SVG or PNG."""

from __future__ import annotations

import json
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import resvg_py

from tests.conftest import run_cli
from vram_search.report.page.html import charts
from vram_search.report.page.png import ZOOM, light_style, render_png
from vram_search.report.page.report_data import ReportData
from vram_search.report.page.svg import WIDTH, Chart
from vram_search.store import Store, StudyRecord

Cli = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., StudyRecord]


@pytest.fixture
def study(database: Store, studies: Make) -> StudyRecord:
    """The study of `night`, in the database that the command line reads."""
    return studies(database, trials=40)


def test_plots_are_svg_documents_of_their_own(
    vram_search: Cli, study: StudyRecord, tmp_path: Path
) -> None:
    plots = tmp_path / "plots"
    done = vram_search("report", "-o", tmp_path / "r.html", "--plots", plots, "--json")
    assert done.returncode == 0, done.stdout
    files = [Path(name) for name in json.loads(done.stdout)["files"]]
    assert tmp_path / "r.html" in files and plots / "vram.svg" in files
    for file in plots.iterdir():
        root = ET.parse(file).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_plots_are_png_files_with_colours_and_letters(
    vram_search: Cli, study: StudyRecord, night: ReportData, tmp_path: Path
) -> None:
    plots = tmp_path / "plots"
    done = vram_search("report", "-o", tmp_path / "r.html", "--plots", plots, "--plot-format=png")
    assert done.returncode == 0, done.stdout
    drawn = [chart for section in charts(night).values() for chart in section if not chart.is_empty]
    assert len(list(plots.glob("*.png"))) == len(list(plots.iterdir())) == len(drawn)
    content = (plots / "vram.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (ZOOM * WIDTH, ZOOM * _height_of(charts(night)["results"][1]))


def _height_of(chart: Chart) -> int:
    return int(ET.fromstring(chart.document()).attrib["height"])


def test_png_has_letters_that_are_the_same_on_every_machine(
    night: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where resvg finds no font, it leaves the letters out and says nothing."""
    chart = charts(night)["results"][1]
    drawn = render_png(chart)
    assert drawn != render_png(replace(chart, title=""))
    without_fonts_of_the_machine = partial(resvg_py.svg_to_bytes, skip_system_fonts=True)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", without_fonts_of_the_machine)
    assert render_png(chart) == drawn


def test_style_of_png_has_nothing_that_resvg_does_not_know() -> None:
    style = light_style()
    assert "var(" not in style and "@media" not in style and "--" not in style
    assert "text { fill: #1d2430; }" in style and ".f0 { fill: #0063a6; }" in style


def test_png_without_its_packages_names_them_and_writes_nothing(
    study: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the extra is not installed: a broken package of the name stands in its place."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "resvg_py.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'resvg_py'\", name='resvg_py')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    target = tmp_path / "r.html"
    done = run_cli("report", "-o", target, "--plots", tmp_path / "p", "--plot-format=png")
    assert done.returncode == 2
    assert "resvg_py is not installed" in done.stdout and "resvg-py>=0.5" in done.stdout
    assert "plots" in done.stdout and "Traceback" not in done.stdout
    assert not target.exists() and not (tmp_path / "p").exists()


def test_format_of_plots_that_are_not_asked_for_is_refused(
    vram_search: Cli, study: StudyRecord, tmp_path: Path
) -> None:
    done = vram_search("report", "-o", tmp_path / "r.html", "--plot-format=png")
    assert done.returncode == 2
    assert "--plots FOLDER" in done.stdout
