"""The run of an export in a tool that trains with transformers' Trainer: TRL, peft, Unsloth,
Axolotl."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from vram_search.importing.history import History
from vram_search.importing.trainer_state import parse_trainer_state
from vram_search.train import trainer_run
from vram_search.verify.environment import ToolEnvironment
from vram_search.verify.llamafactory_rows import describe
from vram_search.verify.recorded_rows import RowInShort
from vram_search.verify.tool_run import Process, ToolRows, read_log
from vram_search.verify.tools import RealTool

LOG = "trainer_log.jsonl"


class TrainerRun:
    """Runs an exported YAML through `trainer_run.py`.

    Args:
        file: the YAML.
        overrides: keys to change, as `key=value`; a key of a script's YAML is `part.key`.
    """

    def __init__(
        self,
        real: RealTool,
        tool: ToolEnvironment,
        file: Path,
        overrides: Sequence[str],
        variables: dict[str, str],
    ) -> None:
        self.overrides = tuple(overrides)
        self.log = file.parent / f"{real.name}.log"
        self._real = real
        self._process = Process(tool, file.parent, self.log, variables)
        self._arguments = _arguments(real, file, overrides)

    def encode_rows(self) -> ToolRows:
        answer = self._process.folder / "rows.tool.json"
        mode = "script-rows" if self._real.is_script else "rows"
        first = "-" if self._real.is_script else self._real.first
        self._process.encode(self._command(mode, answer, first))
        found = json.loads(answer.read_text(encoding="utf-8"))
        arguments = found.pop("arguments")
        return ToolRows.of({split: _shortened(rows) for split, rows in found.items()}, arguments)

    def train(self, tell: Callable[[str], None]) -> History:
        trainer_log = self._process.folder / LOG

        def read() -> History:
            return parse_log(read_log(trainer_log, self._real.title), str(trainer_log))

        command = self._command("train", trainer_log, self._real.first)
        return self._process.train(command, trainer_log, read, tell)

    def _command(self, mode: str, answer: Path, first: str) -> list[str | Path]:
        script = Path(trainer_run.__file__)
        return [script, mode, answer, first, self._real.target, *self._arguments]


def _arguments(real: RealTool, file: Path, overrides: Sequence[str]) -> list[str]:
    """Returns the tool's arguments; only TRL takes single keys, the others get a changed copy."""
    if real.name == "trl":
        pairs = [override.split("=", 1) for override in overrides]
        return [
            "--config",
            file.name,
            *(part for key, value in pairs for part in (f"--{key}", value)),
        ]
    return [changed_copy(file, overrides).name if overrides else file.name]


def changed_copy(file: Path, overrides: Sequence[str]) -> Path:
    """Writes the YAML with these keys changed beside it."""
    config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for override in overrides:
        path, value = override.split("=", 1)
        *parts, key = path.split(".")
        place = config
        for part in parts:
            place = place[part]
        place[key] = yaml.safe_load(value)
    copy = file.with_name(f"{file.stem}.here.yaml")
    copy.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return copy


def _shortened(rows: Sequence[tuple[list[int], list[int]]]) -> list[RowInShort]:
    found = []
    for input_ids, labels in rows:
        digest, tokens, answer_tokens = describe(input_ids, labels)
        found.append((digest, tokens, answer_tokens))
    return found


def parse_log(text: str, place: str) -> History:
    """Reads the log that `trainer_run.py` writes; an unfinished last line is left out.

    Raises:
        InputError: a value has the wrong kind.
    """
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    steps = [entry for entry in entries if "step" in entry]
    last = steps[-1] if steps else {}
    state = {"global_step": last.get("step", 0), "max_steps": last.get("max_steps", 0)}
    history = parse_trainer_state({**state, "log_history": steps}, place)
    for entry in entries:
        if "allocated_bytes" in entry:
            history.measured["allocated_bytes"] = entry["allocated_bytes"]
    return history
