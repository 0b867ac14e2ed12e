"""Renders a data as one HTML file: Jinja escapes every name, styles and script are inlined.

And its charts as files of their own.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vram_search import __version__
from vram_search.report.dimensions import shown_dimensions
from vram_search.report.night import night_sentences
from vram_search.report.page.byte_charts import (
    memory_chart,
    other_memory_chart,
    prediction_chart,
)
from vram_search.report.page.curve_charts import eval_curves_chart, train_curves_chart
from vram_search.report.page.hero import hero, outcome_shares
from vram_search.report.page.history_chart import history_chart
from vram_search.report.page.loss_charts import model_size_chart, vram_chart
from vram_search.report.page.png import render_png
from vram_search.report.page.report_data import ReportData
from vram_search.report.page.search_charts import LEGEND, importance_chart, slice_charts
from vram_search.report.page.summary import studies_table, summary_rows
from vram_search.report.page.svg import Chart
from vram_search.report.page.time_chart import phase_names, seconds_by_phase, time_chart
from vram_search.report.page.trials_table import columns, trial_data, trial_row
from vram_search.report.sentences import importance_sentence
from vram_search.report.words import phase_word
from vram_search.store import TrialRecord
from vram_search.units import format_duration

PlotFormat = Literal["svg", "png"]

ROWS_AT_FIRST = 100
"""Rows of the table that are laid out at first: a thousand take a browser a second."""
_FOLDER = Path(__file__).parent


def charts(data: ReportData) -> dict[str, list[Chart]]:
    """All charts by section."""
    return {
        "results": [history_chart(data), vram_chart(data)],
        "curves": [eval_curves_chart(data), train_curves_chart(data)],
        "importance": [importance_chart(data)],
        "slices": slice_charts(data),
        "bytes": [memory_chart(data)],
        "other_bytes": [other_memory_chart(data)],
        "prediction": [prediction_chart(data)],
        "time": [time_chart(data)],
        "models": [model_size_chart(data)],
    }


def render(data: ReportData, written_at: datetime) -> str:
    """The report; nothing in it is loaded from elsewhere."""
    dimensions = shown_dimensions(data.trials)
    sections = charts(data)
    shown_columns = columns(
        dimensions, is_imported=data.study.is_imported, objective=data.study.ranked_by.name
    )
    by_number: dict[int | None, TrialRecord] = {trial.number: trial for trial in data.trials}
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        study=data.study,
        hero=hero(data),
        outcomes_of_all=outcome_shares(data),
        samples=data.samples,
        night=[] if data.night is None else night_sentences(data.night),
        importance_words=importance_sentence(data.importances, data.study.ranked_by.name),
        left_out=[
            f"{c.title}: {c.caption}" for found in sections.values() for c in found if c.is_empty
        ],
        sweet_spot=data.sweet_spot,
        summary=summary_rows(data),
        sections={
            name: [chart for chart in found if not chart.is_empty]
            for name, found in sections.items()
        },
        slice_legend=LEGEND,
        columns=shown_columns,
        further=[place for place, column in enumerate(shown_columns, 1) if column.is_further],
        rows=[
            trial_row(
                trial,
                by_number.get(trial.retry_of),
                dimensions,
                is_imported=data.study.is_imported,
            )
            for trial in sorted(data.trials, key=_by_loss)
        ],
        rows_at_first=ROWS_AT_FIRST,
        best=None if data.best is None else data.best.number,
        outcomes=sorted({trial.outcome or "running" for trial in data.trials}),
        studies=studies_table(data),
        phases=_phase_table(data),
        data={
            "study": data.study.name,
            "rows_at_first": ROWS_AT_FIRST,
            "best": None if data.best is None else data.best.number,
            "trials": [trial_data(t) for t in data.trials],
        },
        css=_read("chart.css") + _read("report.css"),
        script=_read("report.js"),
        version=__version__,
        written_at=written_at.astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def write_plots(data: ReportData, folder: Path, plot_format: PlotFormat) -> list[Path]:
    """Every chart that is not empty as a file; returns their paths.

    Raises:
        InputError: a package that PNG files need is missing; nothing is written.
    """
    draw = render_png if plot_format == "png" else _svg_bytes
    drawn = {
        f"{_file_stem(chart.key)}.{plot_format}": draw(chart)
        for section in charts(data).values()
        for chart in section
        if not chart.is_empty
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in drawn.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in drawn]


def _by_loss(trial: TrialRecord) -> tuple[float, int]:
    """Lowest eval_loss first; trials without one come last."""
    return (math.inf if trial.value is None else trial.value, trial.number)


def _svg_bytes(chart: Chart) -> bytes:
    return chart.document().encode()


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _file_stem(key: str) -> str:
    """A name from the database may hold anything: keep what every file system takes."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in key)


def _phase_table(data: ReportData) -> list[list[str]]:
    """Header and rows: outcome, time of each phase."""
    found = seconds_by_phase(data)
    names = phase_names(found)
    rows = [
        [outcome, *(format_duration(phases.get(p)) for p in names)]
        for outcome, phases in found.items()
    ]
    return [["outcome", *map(phase_word, names)], *rows] if rows else []
