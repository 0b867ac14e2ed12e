"""Builds records from rows whatever is stored in them: damaged values are left out and named.

SQLite keeps any value in any column, and databases and imported runs come from strangers. One bad
value must not hide a night of trials.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Table, literal_column, select
from sqlalchemy.types import Boolean, DateTime, Double, Integer, String, TypeDecorator, TypeEngine

from vram_search.store.column_types import FiniteFloat, FiniteJson, UtcDateTime
from vram_search.store.records import OUTCOMES, UNKNOWN_DATA, UNKNOWN_SEED

_EPOCH = datetime.fromtimestamp(0, UTC)
_LARGEST = 2**63 - 1
Kind = str
"""`number`, `text`, `flag`, `list`, `table`, `numbers` (a table of numbers) or `texts`."""

_TYPES: dict[Kind, type] = {"text": str, "flag": bool, "list": list, "table": dict}

_HYPERPARAMETERS: dict[str, Kind] = {
    "optim": "text",
    "lora_target": "text",
    "lora_rank": "number",
    "lora_alpha": "number",
    "lora_dropout": "number",
    "cutoff_len": "number",
    "batch_size": "number",
    "learning_rate": "number",
}
_PLAN: dict[str, Kind] = {
    "per_device_train_batch_size": "number",
    "gradient_accumulation_steps": "number",
    "per_device_eval_batch_size": "number",
    "gradient_checkpointing": "flag",
    "enable_liger_kernel": "flag",
    "expandable_segments": "flag",
}
_ERROR: dict[str, Kind] = {
    "stage": "text",
    "message": "text",
    "remedy": "text",
    "cause": "text",
    "step": "number",
    "requested_bytes": "number",
    "others_took_bytes": "number",
    "batch_shape": "list",
    "parts": "numbers",
}
_BYTES: dict[str, Kind] = {
    "parts": "numbers",
    "by_phase": "table",
    "survivors": "list",
    "process_bytes_source": "text",
    "emulated": "text",
    "base_intact": "flag",
    "margin": "number",
    "excess": "number",
    "longest_tokens": "number",
    "longest_eval_tokens": "number",
    "required_ratio_above": "number",
    "probe_miss": "number",
    "samples_per_second": "number",
}
_PROVENANCE: dict[str, Kind] = {
    "source": "text",
    "path": "text",
    "run": "text",
    "model": "table",
    "files": "any",
    "settings": "table",
    "reported": "table",
    "unknown": "list",
    "notes": "list",
}
_SPEC: dict[str, Kind] = {
    "study": "text",
    "dataset": "table",
    "training": "table",
    "search_space": "table",
    "budget": "table",
    "identity": "table",
    "loaded": "table",
    "strategies": "list",
    "seed": "number",
}
_SHAPES: dict[str, dict[str, Kind]] = {
    "spec": _SPEC,
    "hyperparameters": _HYPERPARAMETERS,
    "plan": _PLAN,
    "error": _ERROR,
    "measured": _BYTES,
    "predicted": _BYTES,
    "provenance": _PROVENANCE,
}
_NUMBER_ENDINGS = ("_bytes", "_seconds", "_mhz", "_watts", "_percent", "_celsius")
_LISTS = {"example_loss_sums", "answer_errors", "losses", "evaluations", "step_losses"}
_LISTS_OF_TABLES = {("vs_product_runs", "step_losses"), ("vs_product_runs", "evaluations")}
"""Columns that hold a table of numbers for each step."""
_DEFAULTS: dict[str, Any] = {
    "hyperparameters": {},
    "spec": {},
    "card": {},
    "model": {},
    "seed": UNKNOWN_SEED,
    "data_hash": UNKNOWN_DATA,
    "name": "",
    "revision": 1,
    "fraction": 0.0,
    "seconds": 0.0,
}


def raw_columns(columns: Iterable[Column[Any]]) -> list[Any]:
    """The columns with their values as they are stored, which no type can refuse."""
    return [
        literal_column(f"{column.table.name}.{column.name}").label(column.name)
        for column in columns
    ]


def read_table(
    connection: Connection,
    table: Table,
    *where: ColumnElement[bool],
    columns: Iterable[Column[Any]] | None = None,
    order_by: Sequence[ColumnElement[Any]] = (),
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of a table, each as values by column; damaged values as in `read_row`.

    Args:
        columns: of the table; None reads all.
    """
    chosen = list(table.c if columns is None else columns)
    query = select(*raw_columns(chosen)).select_from(table).where(*where).order_by(*order_by)
    return [read_row(row, chosen)[0] for row in connection.execute(query.limit(limit))]


def read_row(
    row: Row[Any], columns: Iterable[Column[Any]]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of a row by column, and the names of what was damaged in it.

    A damaged value becomes None, or the column's default if the column allows no None.
    """
    damaged: list[str] = []
    values: dict[str, Any] = {}
    by_name = row._mapping
    for column in columns:
        stored = by_name[column.name]
        try:
            value = _decoded(column, stored)
        except (ValueError, TypeError, RecursionError, OverflowError):
            value = None
            damaged.append(column.name)
        if isinstance(value, dict):
            value, faults = _in_shape(column.name, value)
            damaged += [f"{column.name}.{name}" for name in faults]
        if value is None and not column.nullable:
            if stored is None:
                damaged.append(column.name)
            value = _default(column)
        values[column.name] = value
    return values, tuple(damaged)


def error_with_damage(
    error: dict[str, Any] | None, damaged: Sequence[str]
) -> dict[str, Any] | None:
    """A trial's error, with a sentence about the values that cannot be read."""
    if not damaged:
        return error
    message = f"damaged in the database: {', '.join(damaged)}"
    said = (error or {}).get("message")
    return {
        "stage": "record",
        **(error or {}),
        "message": f"{message}; {said}" if said else message,
    }


def _decoded(column: Column[Any], stored: Any) -> Any:
    if stored is None:
        return None
    return _decoder(column.type)(column, stored)


@cache
def _decoder(kind: TypeEngine[Any]) -> Callable[[Column[Any], Any], Any]:
    for known, decode in _DECODERS:
        if isinstance(kind, known):
            return decode
    raise AssertionError(f"no decoder for {kind!r}")


def _json(column: Column[Any], stored: Any) -> Any:
    value = stored
    if isinstance(stored, str):
        value = _JSON.decode(stored)
    elif isinstance(stored, bytes):
        value = json.loads(stored, parse_int=_small_int)
    is_list = column.name in _LISTS
    if value is not None and not isinstance(value, list if is_list else dict):
        raise TypeError(column.name)
    if value is None or not is_list:
        return value
    if (column.table.name, column.name) in _LISTS_OF_TABLES:
        return [_numbers_of_step(item) for item in value if _has_step(item)]
    return [_item(item) for item in value]


def _has_step(item: Any) -> bool:
    return isinstance(item, dict) and _is_number(item.get("step"))


def _numbers_of_step(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _item(value) for name, value in item.items()}


def _small_int(digits: str) -> int | float:
    """A number beyond 64 bits would break arithmetic with floats, or its printing."""
    return int(digits) if len(digits) < 19 else float(digits)


_JSON = json.JSONDecoder(parse_int=_small_int)


def _item(value: Any) -> Any:
    if isinstance(value, list):
        return [_item(inner) for inner in value]
    return value if _is_number(value) else None


def _float(column: Column[Any], stored: Any) -> float:
    if not _is_number(stored):
        raise TypeError(column.name)
    return float(stored)


def _int(column: Column[Any], stored: Any) -> int:
    if not _is_number(stored) or stored != int(stored) or abs(stored) > _LARGEST:
        raise TypeError(column.name)
    return int(stored)


def _flag(column: Column[Any], stored: Any) -> bool:
    if stored not in (0, 1):
        raise TypeError(column.name)
    return bool(stored)


def _text(column: Column[Any], stored: Any) -> str:
    if not isinstance(stored, str):
        raise TypeError(column.name)
    if column.name == "outcome" and stored not in OUTCOMES:
        raise ValueError(column.name)
    return stored


def _time(column: Column[Any], stored: Any) -> datetime:
    moment = stored if isinstance(stored, datetime) else datetime.fromisoformat(stored)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if not 1970 <= moment.year <= 9000:  # a time zone could leave the calendar
        raise ValueError(column.name)
    return moment


_DECODERS: tuple[tuple[type[TypeEngine[Any]], Callable[[Column[Any], Any], Any]], ...] = (
    (FiniteJson, _json),
    (FiniteFloat, _float),
    (Double, _float),
    (Boolean, _flag),
    (UtcDateTime, _time),
    (DateTime, _time),
    (Integer, _int),
    (String, _text),
    (TypeDecorator, _text),
)


def _default(column: Column[Any]) -> Any:
    if isinstance(column.type, (FiniteFloat, Double)):
        return 0.0
    if isinstance(column.type, Boolean):
        return False
    default = _DEFAULTS.get(column.name)
    if isinstance(column.type, UtcDateTime):
        return _EPOCH
    if isinstance(column.type, FiniteJson):
        return [] if column.name in _LISTS else dict(default or {})
    if isinstance(column.type, Integer):
        return default if isinstance(default, int) else 0
    return default if isinstance(default, str) else ""


def _in_shape(column: str, value: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The table without values of the wrong kind, and the names of these."""
    if column == "seconds":
        return _only("number", value)
    if column == "versions":
        return _only("text", value)
    kinds = _SHAPES.get(column)
    if kinds is None:
        return dict(value), []
    kept: dict[str, Any] = {}
    faults: list[str] = []
    for stored_name, inner in value.items():
        name = sys.intern(stored_name)  # many trials with the same names are held at once
        kind = kinds.get(name, "number" if name.endswith(_NUMBER_ENDINGS) else "any")
        fitting, inner_faults = _fitting(kind, inner)
        if inner is not None and fitting is None:
            faults.append(name)
            if column == "hyperparameters":
                kept[name] = None
            continue
        faults += [f"{name}.{fault}" for fault in inner_faults]
        kept[name] = fitting
    return kept, faults


def _fitting(kind: Kind, value: Any) -> tuple[Any, list[str]]:
    if kind in ("numbers", "texts"):
        return _only(kind.removesuffix("s"), value) if isinstance(value, dict) else (None, [])
    return (value, []) if kind == "any" or _is(kind, value) else (None, [])


def _only(kind: Kind, value: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    kept = {sys.intern(name): inner for name, inner in value.items() if _is(kind, inner)}
    return kept, [name for name in value if name not in kept]


def _is(kind: Kind, value: Any) -> bool:
    return _is_number(value) if kind == "number" else isinstance(value, _TYPES[kind])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
