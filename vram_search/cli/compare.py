"""`vram-search compare N M`: two trials side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from vram_search.answers.compare import CompareAnswer, FigureAnswer, LossAnswer
from vram_search.cli.console import echo
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import (
    database_option,
    json_option,
    print_json,
    results_of,
    study_option,
)
from vram_search.report.compare import Pair
from vram_search.report.words import known_cell
from vram_search.report.wrapping import WIDTH, answer_width, wrapped
from vram_search.units import MIB, counted, format_bytes, format_duration, format_small

COLUMNS = ("kind", "name", "origin", "first", "second", "difference", "standard_error")
_WIDE = 29, 17, 14
_NARROW = 27, 10, 10
"""The same below 80 columns: values that are longer take a line each."""


@click.command("compare", short_help="What differs between two trials, and what it did.")
@click.argument("first", metavar="N|best")
@click.argument("second", metavar="M|best")
@study_option
@database_option
@json_option
@csv_option
def command(
    first: str,
    second: str,
    study: str | None,
    database: str | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Compare trials N and M: settings that differ, and their loss, bytes and seconds.

    Every difference is M less N. The losses are those of the best checkpoints or, where a
    trial was cut short, of the last point at which both were evaluated. Their difference is
    paired per evaluation example, and so is its standard error; the noise between seeds is
    not in it.

    \b
    Examples:
      vram-search compare 3 7
      vram-search compare best 7 --json
    """
    refuse_both(as_json, as_csv)
    with results_of(study, database) as results:
        answer = results.compare(first, second, study)
    if as_json:
        print_json(answer.as_dict())
    elif as_csv:
        print_csv(COLUMNS, _rows(answer))
    else:
        echo("\n".join(_lines(answer)))


def _rows(answer: CompareAnswer) -> Iterator[dict[str, Any]]:
    """A row for each setting that differs, then a row for each figure."""
    empty = dict.fromkeys(COLUMNS)
    for kind, pairs in _settings(answer):
        for name, (first, second) in pairs.items():
            yield {**empty, "kind": kind, "name": name, "first": first, "second": second}
    if (loss := answer.eval_loss) is not None:
        row = {**empty, "kind": "loss", "name": answer.objective, "origin": "measured"}
        yield {**row, **loss.as_dict()}
    for kind, figures in (
        ("bytes", answer.bytes),
        ("part", answer.parts),
        ("seconds", answer.seconds),
    ):
        for name, figure in figures.items():
            yield {**empty, "kind": kind, "name": name, **figure.as_dict()}


def _settings(answer: CompareAnswer) -> list[tuple[str, Mapping[str, Pair]]]:
    return [
        ("hyperparameter", answer.differs.hyperparameters),
        ("plan", answer.differs.plan),
        ("circumstance", answer.differs.circumstances),
    ]


def _lines(answer: CompareAnswer) -> list[str]:
    names = [f"trial {number}" for number in answer.trials]
    lines = [
        *wrapped(answer.sentence, ""),
        f"study {answer.study}",
        _line("", names[0], names[1], "difference"),
    ]
    for kind, pairs in _settings(answer):
        for name, pair in pairs.items():
            lines += _setting_lines(name, pair, names)
        if not pairs and kind != "circumstance":
            lines.append(_none_differs(kind, answer))
    lines += _loss_lines(answer.eval_loss, answer.objective)
    lines += [_peak_line(name, figure) for name, figure in answer.bytes.items()]
    lines += [_time_line(name, figure) for name, figure in answer.seconds.items()]
    parts = {n: f for n, f in answer.parts.items() if abs(f.difference or 0) >= MIB}
    if parts:
        lines.append(f"  parts of the peak, {next(iter(parts.values())).origin}:")
        lines += [_figure_line(f"  {n}", figure, format_bytes) for n, figure in parts.items()]
    return [*lines, *(line for note in answer.notes for line in wrapped(note))]


def _none_differs(kind: str, answer: CompareAnswer) -> str:
    is_known = answer.knows_plan if kind == "plan" else answer.knows_hyperparameters
    name = "plan" if kind == "plan" else "settings"
    return f"  {name}: {'the same' if is_known else 'not known'}"


def _widths() -> tuple[int, int, int]:
    """Columns of the name, of a value and of the difference."""
    return _WIDE if answer_width() >= WIDTH else _NARROW


def _line(name: str, first: str, second: str, difference: str = "") -> str:
    name_width, value_width, difference_width = _widths()
    values = "".join(f" {value:>{value_width}}" for value in (first, second))
    return f"{'  ' + name:<{name_width}}{values} {difference:>{difference_width}}".rstrip()


def _setting_lines(name: str, pair: Pair, names: Sequence[str]) -> list[str]:
    """One line, or one per trial if a value is long."""
    values = [_setting(value) for value in pair]
    if max(map(len, values)) <= _widths()[1]:
        return [_line(name, values[0], values[1])]
    said = [wrapped(f"{who}: {value}", "    ") for who, value in zip(names, values, strict=True)]
    return [f"  {name}", *said[0], *said[1]]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_small(value, 3) if 0 < value < 0.01 else f"{value:g}"
    return known_cell(value)


def _loss_lines(loss: LossAnswer | None, objective: str) -> list[str]:
    if loss is None:
        return wrapped(f"{objective}: there is no point at which both have one")
    lines = [_line(objective, f"{loss.first:.4f}", f"{loss.second:.4f}", _signed(loss))]
    place = f"at {'the ' if loss.at[0].isalpha() else ''}{loss.at}"
    return [*lines, *wrapped(f"{place}{_error_words(loss)}", "    ")]


def _signed(loss: LossAnswer) -> str:
    return f"{loss.difference:+.4f}"


def _error_words(loss: LossAnswer) -> str:
    if loss.standard_error is None:
        return ""
    examples = counted(loss.examples or 0, "example", "examples")
    words = f"; paired over {examples}, standard error {loss.standard_error:.4f}"
    if loss.standard_error == 0:
        return words
    times = abs(loss.difference) / loss.standard_error
    if times <= 1:
        return f"{words}: within it, so no difference is shown"
    return f"{words}: the difference is {times:.1f} times that"


def _peak_line(name: str, figure: FigureAnswer) -> str:
    said = "VRAM needed" if name == "required_bytes" else name.removesuffix("_bytes")
    return _figure_line(f"{said} ({figure.origin})", figure, format_bytes)


def _time_line(name: str, figure: FigureAnswer) -> str:
    return _figure_line(f"time, {name.removesuffix('_seconds')}", figure, format_duration)


def _figure_line(name: str, figure: FigureAnswer, form: Callable[[float | None], str]) -> str:
    difference = figure.difference
    change = ""
    if difference is not None:
        sign = "-" if difference < 0 else "+"
        change = f"{sign}{form(abs(difference))}" if difference else "0"
    return _line(name.replace("_", " "), form(figure.first), form(figure.second), change)
