"""`vram-search estimate --points`: the rows of a JSONL file and their predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vram_search.errors import InputError, reason_of
from vram_search.estimate.memory.hardware import Hardware
from vram_search.estimate.memory.predict import Estimate, predict_plausible
from vram_search.estimate.recipes.jsonl_row import Point, RowError, parse_point
from vram_search.models import read_shape
from vram_search.parsing.json_text import parse_json as parse_json_text
from vram_search.parsing.parse_error import ParseError
from vram_search.spec.shape import ModelShape
from vram_search.typed_fields import shown

MAX_FAULTS_SHOWN = 20


def predict_points(file: Path, models: Path, hardware: Hardware) -> list[dict[str, object]]:
    """The predictions for all rows of a JSONL file, in their order; empty lines are passed over.

    A row that is wrong has an `error` in its place: its line and its faults.

    Args:
        models: the folder that holds `<model>/config.json`.

    Raises:
        InputError: the file cannot be read, or not one of its rows is right; names each fault.
    """
    answers: list[dict[str, object]] = []
    faults: list[_RowFault] = []
    wrong = 0
    shape_of = ShapeLoader(models)
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            point = parse_point(parse_json(line), shape_of)
            answers.append(point.as_dict(_predict(point, hardware)))
        except RowError as error:
            wrong += 1
            answers.append(_error_row(number, line, error))
            faults += [_RowFault(f"{file}:{number}", *fault) for fault in error.faults]
    if not answers:
        raise InputError(f"{file}: holds no row", "write one JSON mapping per line")
    if wrong == len(answers):
        raise _refusal(file, faults)
    return answers


def _error_row(number: int, line: str, error: RowError) -> dict[str, object]:
    """The answer of a row that is wrong, with the row's own name and note where it has them."""
    try:
        row = parse_json(line)
    except RowError:
        row = {}
    named = {key: row[key] for key in ("model", "note") if isinstance(row.get(key), str)}
    keys = ("field", "message", "remedy")
    faults = [dict(zip(keys, fault, strict=True)) for fault in error.faults]
    return {**named, "error": {"line": number, "faults": faults}}


def _predict(point: Point, hardware: Hardware) -> Estimate:
    """Predicts the bytes of a point.

    Raises:
        RowError: the sizes are absurd.
    """
    try:
        return predict_plausible(point.workload, hardware).with_replay()
    except InputError as error:
        raise RowError(("(the row)", error.message, error.remedy)) from None


def load_point(file: Path, models: Path) -> Point | dict[str, Any]:
    """The one row of a JSON file: a point, or a mapping with `parts` as it was printed here.

    Raises:
        InputError: the file cannot be read, or the row is wrong.
    """
    try:
        row = parse_json(read_text(file))
        if "parts" in row:
            return _checked_parts(row)
        return parse_point(row, ShapeLoader(models))
    except RowError as error:
        raise _refusal(file, [_RowFault(f"{file}:1", *fault) for fault in error.faults]) from None


@dataclass(frozen=True)
class _RowFault:
    where: str
    field: str
    message: str
    remedy: str


def _refusal(file: Path, faults: list[_RowFault]) -> InputError:
    lines = [f"{fault.where}: {fault.field}: {fault.message}" for fault in faults]
    if len(faults) == 1:
        return InputError(lines[0], faults[0].remedy)
    listed = "\n".join(f"  {line}" for line in lines[:MAX_FAULTS_SHOWN])
    more = len(lines) - MAX_FAULTS_SHOWN
    if more > 0:
        listed += f"\n  and {more} more"
    remedies = dict.fromkeys(
        f"{fault.field}: {fault.remedy}" for fault in faults[:MAX_FAULTS_SHOWN]
    )
    return InputError(f"{file}: {len(faults)} faults\n{listed}", "; ".join(remedies))


def read_text(file: Path) -> str:
    """A file's text.

    Raises:
        InputError: it is not there, cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read ({reason_of(error)})", "give the path of a text file in UTF-8"
        ) from None


def parse_json(text: str) -> dict[str, Any]:
    """A JSON mapping without NaN and Infinity.

    Raises:
        RowError: the text is something else.
    """
    try:
        row = parse_json_text(text, without_nonfinite=True)
    except ParseError as error:
        raise RowError(("(the row)", f"not JSON ({error})", "write one JSON mapping")) from None
    if not isinstance(row, dict):
        raise RowError(
            ("(the row)", f"not a mapping (is {shown(row)})", "write {...} with the fields")
        )
    return row


class ShapeLoader:
    """Loads each model's shape once from `<folder>/<model>/config.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[str, ModelShape] = {}

    def __call__(self, model: str) -> ModelShape:
        """Returns the shape of a model in the folder.

        Raises:
            InputError: there is no such model, or it is not modelled.
        """
        if model not in self._found:
            try:
                self._found[model] = read_shape(self._folder / model)
            except OSError as error:
                raise InputError(
                    f"{self._folder / model}: cannot be read ({reason_of(error)})"
                ) from None
        return self._found[model]


def _checked_parts(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row that holds parts, after checking their values.

    Raises:
        RowError: the sizes are not bytes, or the peak's moment is no text.
    """
    remedy = "write it as `vram-search estimate --points` prints it"
    if not isinstance(row["parts"], dict):
        raise RowError(("parts", f"not a mapping (is {shown(row['parts'])})", remedy))
    totals = {key: row[key] for key in ("allocated_bytes", "required_bytes") if key in row}
    faults = [
        (name, f"not a number of bytes (is {shown(size)})", remedy)
        for name, size in [*row["parts"].items(), *totals.items()]
        if type(size) is not int or size < 0
    ]
    moment = row.setdefault("moment", "not said")
    if not isinstance(moment, str):
        faults.append(("moment", f"not a text (is {shown(moment)})", remedy))
    if faults:
        raise RowError(*faults)
    return row
