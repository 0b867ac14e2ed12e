"""`vram-search compare N M`: two trials side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from vram_search.answers.lookup import find_study, find_trial, opened
from vram_search.cli.csv_output import csv_option, print_csv, refuse_both
from vram_search.cli.options import database_option, json_option, print_json, study_option
from vram_search.errors import InputError
from vram_search.report.compare import Comparison, Figure, LossDifference, Pair, compare
from vram_search.report.figures import study_json
from vram_search.report.words import known_cell, wrapped
from vram_search.store import StudyRecord
from vram_search.units import MIB, format_bytes, format_duration

COLUMNS = ("kind", "name", "origin", "first", "second", "difference", "standard_error")
_NAME_WIDTH, _VALUE_WIDTH, _DIFFERENCE_WIDTH = 29, 17, 14


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
    """What differs between trials N and M, and what it did to loss, bytes and seconds.

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
    with opened(database) as store:
        record = find_study(store, study)
        trials = [find_trial(store, record, which) for which in (first, second)]
        if trials[0].number == trials[1].number:
            raise InputError(f"both are trial {trials[0].number}", "name two different trials")
        evaluations = (store.evaluations(trials[0].id), store.evaluations(trials[1].id))
    found = compare(record, trials[0], trials[1], evaluations)
    if as_json:
        print_json(_as_dict(record, found))
    elif as_csv:
        print_csv(COLUMNS, _rows(found))
    else:
        click.echo("\n".join(_lines(record, found)))


def _as_dict(study: StudyRecord, found: Comparison) -> dict[str, Any]:
    loss = found.loss
    return {
        **study_json(study),
        "trials": [found.first.number, found.second.number],
        "differs": {
            "hyperparameters": found.hyperparameters,
            "plan": found.plan,
            "circumstances": found.circumstances,
        },
        "eval_loss": None if loss is None else {**vars(loss), "difference": loss.difference},
        "bytes": _by_name(found.bytes),
        "parts": _by_name(found.parts),
        "seconds": _by_name(found.seconds),
        "notes": found.notes,
    }


def _by_name(figures: Sequence[Figure]) -> dict[str, dict[str, Any]]:
    return {
        figure.name: {
            "origin": figure.origin,
            "first": figure.first,
            "second": figure.second,
            "difference": figure.difference,
        }
        for figure in figures
    }


def _rows(found: Comparison) -> Iterator[dict[str, Any]]:
    """A row a setting that differs, then a row a figure."""
    empty = dict.fromkeys(COLUMNS)
    for kind, pairs in _settings(found):
        for name, (first, second) in pairs.items():
            yield {**empty, "kind": kind, "name": name, "first": first, "second": second}
    if (loss := found.loss) is not None:
        row = {**empty, "kind": "loss", "name": "eval_loss", "origin": "measured"}
        yield {**row, **vars(loss), "difference": loss.difference}
    for kind, figures in (
        ("bytes", found.bytes),
        ("part", found.parts),
        ("seconds", found.seconds),
    ):
        for name, figure in _by_name(figures).items():
            yield {**empty, "kind": kind, "name": name, **figure}


def _settings(found: Comparison) -> list[tuple[str, Mapping[str, Pair]]]:
    return [
        ("hyperparameter", found.hyperparameters),
        ("plan", found.plan),
        ("circumstance", found.circumstances),
    ]


def _lines(study: StudyRecord, found: Comparison) -> list[str]:
    names = [f"trial {trial.number}" for trial in (found.first, found.second)]
    lines = [f"study {study.name}", _line("", names[0], names[1], "difference")]
    for kind, pairs in _settings(found):
        for name, pair in pairs.items():
            lines += _setting_lines(name, pair, names)
        if not pairs and kind != "circumstance":
            lines.append(_none_differs(kind, found))
    lines += _loss_lines(found)
    lines += [_figure_line(figure) for figure in (*found.bytes, *found.seconds)]
    parts = [figure for figure in found.parts if abs(figure.difference or 0) >= MIB]
    if parts:
        lines.append(f"  parts of the peak, {parts[0].origin}:")
        lines += [_figure_line(figure, "  ") for figure in parts]
    return [*lines, *(line for note in found.notes for line in wrapped(note))]


def _none_differs(kind: str, found: Comparison) -> str:
    settings = {"hyperparameter": found.first.hyperparameters, "plan": found.first.plan or {}}
    is_known = any(value is not None for value in settings[kind].values())
    name = "plan" if kind == "plan" else "hyperparameters"
    return f"  {name}: {'the same' if is_known else 'not known'}"


def _line(name: str, first: str, second: str, difference: str = "") -> str:
    values = "".join(f" {value:>{_VALUE_WIDTH}}" for value in (first, second))
    return f"{'  ' + name:<{_NAME_WIDTH}}{values} {difference:>{_DIFFERENCE_WIDTH}}".rstrip()


def _setting_lines(name: str, pair: Pair, names: Sequence[str]) -> list[str]:
    """One line, or one a trial where a value is long."""
    values = [_setting(value) for value in pair]
    if max(map(len, values)) <= _VALUE_WIDTH:
        return [_line(name, values[0], values[1])]
    said = [wrapped(f"{who}: {value}", "    ") for who, value in zip(names, values, strict=True)]
    return [f"  {name}", *said[0], *said[1]]


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3e}" if isinstance(value, float) else known_cell(value)


def _loss_lines(found: Comparison) -> list[str]:
    loss = found.loss
    if loss is None:
        return wrapped("eval_loss: there is no point at which both have one")
    lines = [_line("eval_loss", f"{loss.first:.4f}", f"{loss.second:.4f}", _signed(loss))]
    place = f"at {'the ' if loss.at[0].isalpha() else ''}{loss.at}"
    return [*lines, *wrapped(f"{place}{_error_words(loss)}", "    ")]


def _signed(loss: LossDifference) -> str:
    return f"{loss.difference:+.4f}"


def _error_words(loss: LossDifference) -> str:
    if loss.standard_error is None:
        return ""
    words = f"; paired over {loss.examples} examples, standard error {loss.standard_error:.4f}"
    if loss.standard_error == 0:
        return words
    times = abs(loss.difference) / loss.standard_error
    if times <= 1:
        return f"{words}: within it, so no difference is shown"
    return f"{words}: the difference is {times:.1f} times that"


def _figure_line(figure: Figure, indent: str = "") -> str:
    name = f"{indent}{figure.name.replace('_', ' ')}"
    if figure.unit == "seconds":
        name = f"time, {name.removesuffix(' seconds')}"
    elif not indent:
        name = f"{name.removesuffix(' bytes')} ({figure.origin})"
    form = format_bytes if figure.unit == "bytes" else format_duration
    difference = figure.difference
    change = ""
    if difference is not None:
        sign = "-" if difference < 0 else "+"
        change = f"{sign}{form(abs(difference))}" if difference else "0"
    return _line(name, form(figure.first), form(figure.second), change)
