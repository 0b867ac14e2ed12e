"""The readers that are fuzzed: each takes a folder with the files of an input."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.fuzz import seeds
from bench.fuzz.mutate import Files
from vram_search.errors import InputError


class RefusedError(Exception):
    """An answer that refuses the input without an exception of ours."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        share: of all inputs; slow readers get fewer.
        seeds: inputs from which the others are made.
        run: reads an input; raises VramSearchError or RefusedError if it refuses it.
    """

    name: str
    share: float
    seeds: list[Files]
    run: Callable[[Path], None]


def build_no_trees() -> None:
    """A model without a formula is refused: its class is read by another process in 15 s."""
    from vram_search.models import tree

    def refuse(config: Path) -> Any:
        raise InputError("no other process is started here")

    tree.model_tree = refuse


def read_study(folder: Path) -> None:
    """`run`, `estimate` and `--set` read a study file."""
    from vram_search.spec.load import load_study

    overrides = []
    if (folder / "overrides.txt").exists():
        text = (folder / "overrides.txt").read_text("utf-8", errors="surrogateescape")
        overrides = [line for line in text.split("\n") if line]
    study = load_study(folder / "study.yaml", tuple(overrides))
    study.identity()
    study.space.contains(study.space.nearest({}))


def read_rows(folder: Path) -> None:
    """`run` and `data` read rows."""
    from vram_search.data import load_rows
    from vram_search.spec.dataset import DatasetSpec

    file = next((f for f in sorted(folder.iterdir()) if f.name.startswith("rows.")), None)
    if file is None:
        raise RefusedError
    try:
        dataset = DatasetSpec.model_validate({"train": str(file), "val_size": 2})
    except ValidationError as error:
        raise RefusedError from error
    load_rows(dataset, 1)


def read_dataset_info(folder: Path) -> None:
    """Rows that LLaMA-Factory's dataset_info.json names."""
    from vram_search.data import load_rows
    from vram_search.spec.dataset import DatasetSpec

    named = {"dataset_dir": str(folder), "train": "mine", "val_size": 2}
    try:
        dataset = DatasetSpec.model_validate(named)
    except ValidationError as error:
        raise RefusedError from error  # `load_study` makes faults of a file of it
    load_rows(dataset, 1)


def read_recipe(folder: Path) -> None:
    """`estimate` reads a recipe of another tool; one in eight is predicted, too."""
    from vram_search.answers.estimate import estimate_file
    from vram_search.estimate.recipes.load import load_recipe

    file = next(iter(sorted(folder.glob("recipe.*"))), None)
    if file is None:
        raise RefusedError
    if len(file.read_bytes()) % 8:
        load_recipe(file)
    else:
        estimate_file(file, "rtx-4090-24gb").as_dict()


def read_config(folder: Path) -> None:
    """`estimate --model FOLDER` reads a config.json."""
    from vram_search.models import find_model

    shape = find_model(str(folder)).shape()
    shape.lora_layers("all")


def read_points(folder: Path) -> None:
    """`estimate --points` reads rows of configurations."""
    from vram_search.answers.points import predict_points
    from vram_search.estimate.memory.hardware import Hardware

    json.dumps(predict_points(folder / "points.jsonl", folder, Hardware()))


def read_runs(folder: Path) -> None:
    """`import` reads the folder of a run."""
    from vram_search.importing.load import load_runs

    load_runs(folder)


def read_table(folder: Path) -> None:
    """`import` reads a table of runs."""
    from vram_search.importing.load import load_runs

    load_runs(folder / "runs.csv")


def read_template(folder: Path) -> None:
    """`run`, `data` and `export` split rows by a tokenizer's chat template."""
    from vram_search.data.chat_abilities import ChatTemplateError
    from vram_search.data.example import Example
    from vram_search.export.chat_template import chat_turns, load_chat_template

    chat = load_chat_template(folder)
    if chat is None:
        raise RefusedError
    turns = (("system", "Be short."), ("user", "Ask"), ("assistant", "Answer"))
    try:
        chat_turns(chat, date(2026, 1, 1)).split(Example(turns))
    except ChatTemplateError as error:
        raise RefusedError from error  # `run` names the template and the row


def read_gguf(folder: Path) -> None:
    """The header of a GGUF file; the conversion reads it in a process of its own."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(folder / "model.gguf")
        for field in reader.fields.values():
            field.contents()
    except Exception as error:
        raise RefusedError from error  # `converted_gguf` makes one sentence of any end


def read_message(folder: Path) -> None:
    """The supervisor reads a line of the training process."""
    from vram_search.protocol import parse_event

    for line in (folder / "events.jsonl").read_text("utf-8", errors="replace").split("\n"):
        try:
            parse_event(line)
        except ValueError as error:
            raise RefusedError from error


def read_log(folder: Path) -> None:
    """`logs` reads the log of a run."""
    from vram_search.store.run_logs import entries_of, log_files

    with contextlib.redirect_stdout(io.StringIO()):
        from vram_search.cli.logs import _print

        _print(entries_of(log_files(folder)), None, as_json=False)


def read_units(folder: Path) -> None:
    """Sizes and durations as a person writes them."""
    from vram_search.units import format_bytes, format_duration, parse_bytes, parse_duration

    text = (folder / "unit.txt").read_text("utf-8", errors="replace")
    for parse, show in ((parse_bytes, format_bytes), (parse_duration, format_duration)):
        with contextlib.suppress(ValueError):  # the callers name the key
            show(parse(text))


class DatabaseReader:
    """Every command that reads, on a database of which cells were changed."""

    def __init__(self, place: Path) -> None:
        self.file = seeds.write_database(place / "whole.db")

    def __call__(self, folder: Path) -> None:
        from vram_search.cli.main import main

        cells, command = self._asked(folder / "damage.json")
        database = folder / "search.db"
        shutil.copyfile(self.file, database)
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for table, column, row, value in cells:
                if isinstance(value, dict | list):
                    value = json.dumps(value)
                with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row)
                    )
            connection.commit()
        sys.argv = ["vram-search", *command, "--database", str(database)]
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            try:
                main()
            except SystemExit as ended:
                if ended.code:
                    raise RefusedError from ended

    def _asked(self, file: Path) -> tuple[list[list[Any]], list[str]]:
        """Cells and command of an input; RefusedError if the file itself was damaged."""
        try:
            asked = json.loads(file.read_bytes())
            cells, command = list(asked["cells"]), asked["command"]
            are_known = all(column in seeds.TABLES[table] for table, column, _, _ in cells)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RefusedError from error
        if not are_known or command not in seeds.COMMANDS:
            raise RefusedError
        return cells, command


class ServiceReader:
    """Requests to the service by an owner, in process."""

    def __init__(self, place: Path) -> None:
        from starlette.testclient import TestClient

        from vram_search.store import open_store, sqlite_url
        from vram_search.web.app import make_app
        from vram_search.web.service import Service
        from vram_search.web.token import Credentials

        token = "a-token-of-at-least-thirty-two-characters"
        file = seeds.write_database(place / "service.db")
        store = open_store(sqlite_url(file), create=True)
        folders = [place.resolve(), (place / "uploads").resolve()]
        (place / "uploads").mkdir()
        service = Service(store, sqlite_url(file), folders, folders[1], Credentials(token))
        headers = {"Authorization": f"Bearer {token}"}
        self.client = TestClient(
            make_app(service, ["127.0.0.1"], None),
            base_url="http://127.0.0.1:8416",
            headers=headers,
            follow_redirects=False,
        )

    def __call__(self, folder: Path) -> None:
        try:
            asked = json.loads((folder / "request.json").read_bytes())
        except (ValueError, RecursionError) as error:
            raise RefusedError from error
        refused = False
        for one in asked if isinstance(asked, list) else [asked]:
            refused |= self._send(one)
        if refused:
            raise RefusedError

    def _send(self, one: Any) -> bool:
        try:
            method, path = str(one["method"]), str(one["path"])
            body = one.get("body")
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            headers = {str(k): str(v) for k, v in dict(one.get("headers") or {}).items()}
            headers.setdefault("Content-Type", "application/json")
            "".join([method, path, *headers, *headers.values()]).encode("ascii")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError from error
        if "/events" in path or not path.startswith("/"):
            raise RefusedError  # an endless answer
        import httpx

        try:
            answer = self.client.request(method, path, content=data, headers=headers)
        except (httpx.InvalidURL, httpx.LocalProtocolError, httpx.UnsupportedProtocol) as error:
            raise RefusedError from error  # no server would get it
        return answer.status_code >= 400


def make_targets(place: Path) -> list[Target]:
    """All readers.

    Args:
        place: folder for databases.
    """
    build_no_trees()
    return [
        Target("rows", 0.23, seeds.ROWS, read_rows),
        Target("run-table", 0.20, seeds.TABLES_OF_RUNS, read_table),
        Target("dataset-info", 0.145, seeds.DATASET_INFO, read_dataset_info),
        Target("message", 0.15, seeds.EVENTS, read_message),
        Target("points", 0.075, seeds.POINTS, read_points),
        Target("unit", 0.05, seeds.UNITS, read_units),
        Target("config", 0.04, seeds.CONFIGS, read_config),
        Target("log", 0.02, seeds.LOGS, read_log),
        Target("run-folder", 0.02, seeds.RUNS, read_runs),
        Target("chat-template", 0.02, seeds.TEMPLATES, read_template),
        Target("gguf", 0.015, [seeds.gguf_header()], read_gguf),
        Target("study", 0.015, seeds.STUDIES, read_study),
        Target("recipe", 0.01, seeds.RECIPES, read_recipe),
        Target("database", 0.006, seeds.damages(), DatabaseReader(place)),
        Target("service", 0.004, seeds.REQUESTS, ServiceReader(place)),
    ]
