"""LLaMA-Factory's run of an export: its own data pipeline, and `llamafactory-cli train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vram_search.importing.history import History
from vram_search.importing.llamafactory import parse_trainer_log
from vram_search.train import trainer_run
from vram_search.verify import llamafactory_rows
from vram_search.verify.environment import ToolEnvironment
from vram_search.verify.tool_run import Process, ToolRows, read_log

TRAINER_LOG = "trainer_log.jsonl"


class LlamaFactoryRun:
    """Runs an exported YAML; `overrides` follow its name on the command line."""

    def __init__(
        self,
        tool: ToolEnvironment,
        file: Path,
        config: dict[str, Any],
        overrides: Sequence[str],
        variables: dict[str, str],
    ) -> None:
        self.config, self.overrides = config, tuple(overrides)
        self.log = file.parent / "llama-factory.log"
        self._arguments = [file.name, *overrides]
        self._has_gpu = tool.has_gpu
        self._process = Process(tool, file.parent, self.log, variables)

    def encode_rows(self) -> ToolRows:
        answer = self._process.folder / "rows.tool.json"
        self._process.encode([Path(llamafactory_rows.__file__), answer, *self._arguments])
        rows = json.loads(answer.read_text(encoding="utf-8"))
        found = {split: [(row[0], row[1], row[2]) for row in rows[split]] for split in rows}
        return ToolRows.of(found, self.config)

    def train(self, tell: Callable[[str], None]) -> History:
        """Runs `llamafactory-cli train` as a module; on a CPU through `trainer_run`."""
        trainer_log = self._process.folder / self.config["output_dir"] / TRAINER_LOG

        def read() -> History:
            text = read_log(trainer_log, "LLaMA-Factory")
            return parse_trainer_log(text, str(trainer_log))[0]

        starter = ["-m"] if self._has_gpu else [trainer_run.__file__, "run", "-", "-"]
        command: list[str | Path] = [*starter, "llamafactory.cli", "train", *self._arguments]
        return self._process.train(command, trainer_log, read, tell)
