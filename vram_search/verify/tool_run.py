"""A tool's run of an export, in the tool's own environment: its rows, then its training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vram_search.errors import InputError, VramSearchError, reason_of
from vram_search.importing.history import History
from vram_search.verify.environment import ToolEnvironment, last_lines, run_logged
from vram_search.verify.recorded_rows import RowInShort

PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class ToolRows:
    """The rows as the tool encodes them, and what it does with them.

    Attributes:
        max_steps: optimizer steps of its training.
        eval_batch_size: rows of an evaluation batch; None: it does not evaluate.
    """

    train: tuple[RowInShort, ...]
    eval: tuple[RowInShort, ...]
    max_steps: int
    eval_batch_size: int | None

    @classmethod
    def of(cls, rows: Mapping[str, Any], arguments: Mapping[str, Any]) -> ToolRows:
        """Builds them from rows by split and from the tool's training arguments."""
        batch = arguments["per_device_eval_batch_size"]
        return cls(
            tuple(rows["train"]),
            tuple(rows.get("eval", ())),
            arguments["max_steps"],
            None if arguments["eval_strategy"] == "no" else batch,
        )


class ToolRun(Protocol):
    """One export in its folder, with the tool that trains it."""

    log: Path
    overrides: tuple[str, ...]
    """Keys with other values than in the exported YAML, as `key=value`."""

    def encode_rows(self) -> ToolRows:
        """Encodes the rows.

        Raises:
            InputError: the tool cannot read the export.
        """
        ...

    def train(self, tell: Callable[[str], None]) -> History:
        """Trains to the end.

        Raises:
            VramSearchError: the training failed.
        """
        ...


@dataclass
class Process:
    """Starts the tool's Python in the export's folder.

    Attributes:
        log: file that receives the output.
    """

    tool: ToolEnvironment
    folder: Path
    log: Path
    variables: dict[str, str] = field(default_factory=dict)

    def encode(self, command: list[str | Path]) -> None:
        """Runs the command that encodes the rows.

        Raises:
            InputError: it failed.
        """
        if run_logged([self.tool.python, "-P", *command], self.folder, self.log, self.variables):
            raise InputError(
                f"{self.tool.title} cannot read the export:\n{last_lines(self.log)}",
                f"is its environment complete? Its log: {self.log}",
            )

    def train(
        self,
        command: list[str | Path],
        trainer_log: Path,
        read: Callable[[], History],
        tell: Callable[[str], None],
    ) -> History:
        """Runs the command that trains, and returns its log as `read` reads it.

        Raises:
            VramSearchError: it failed.
        """
        trainer_log.unlink(missing_ok=True)
        watch = _Progress(trainer_log, read, tell).tell_more
        command = [self.tool.python, "-P", *command]
        if run_logged(command, self.folder, self.log, self.variables, watch):
            raise VramSearchError(
                f"{self.tool.title}'s training failed:\n{last_lines(self.log)}",
                f"its log: {self.log}",
            )
        return read()


class _Progress:
    """Reports the steps in a log that another process writes, but not too often."""

    def __init__(
        self, trainer_log: Path, read: Callable[[], History], tell: Callable[[str], None]
    ) -> None:
        self.trainer_log, self.read, self.tell = trainer_log, read, tell
        self.told_step, self.told_at = 0, -PROGRESS_SECONDS

    def tell_more(self) -> None:
        if time.monotonic() - self.told_at < PROGRESS_SECONDS or not self.trainer_log.exists():
            return
        history = self.read()
        if history.losses and history.last_step > self.told_step:
            step = history.losses[max(history.losses)]
            loss = math.nan if step.loss is None else step.loss
            self.tell(f"  step {step.step} of {history.horizon}, loss {loss:.4f}")
            self.told_step, self.told_at = history.last_step, time.monotonic()


def read_log(file: Path, title: str) -> str:
    """Returns a log's text.

    Raises:
        VramSearchError: the tool has left none.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise VramSearchError(f"{title} left no log of its steps ({reason_of(error)})") from None
