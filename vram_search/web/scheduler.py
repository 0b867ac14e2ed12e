"""Starts the studies of the queue in their order, each in a process of its own.

Everything it knows is in the store and in lock files. A study goes on while the service is
restarted, and the new service finds it running.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vram_search.errors import VramSearchError
from vram_search.gpu import GpuDevice, open_reader
from vram_search.gpu.this_card import card_here
from vram_search.shown_text import shown
from vram_search.spec.load import parse_mapping, validate_study
from vram_search.store import Store
from vram_search.store.location import DATABASE_VARIABLE, queue_folder
from vram_search.store.queue import QueueEntry, StudyQueue
from vram_search.worker.card_share import CardPart, card_part
from vram_search.worker.queue_place import is_alive, running_on, sweep

POLL_SECONDS = 1.0
COMMAND = (sys.executable, "-m", "vram_search")
_OUTPUT_LINES = 200


@dataclass
class Scheduler:
    """Runs the queue of one database on this machine.

    Args:
        url: of the database; a process gets it by its environment, since it may hold a password.
    """

    store: Store
    url: str
    command: tuple[str, ...] = field(default_factory=lambda: COMMAND)
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    """The processes that were started here, by queue entry."""
    _parts: dict[int, CardPart | None] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Looks after the queue until `stop` is called."""
        reader = open_reader()
        device = None if reader is None else reader.device()
        told = ""
        while not self._stop.is_set():
            try:
                self.step(device)
                told = ""
            except (VramSearchError, OSError) as error:  # a full disk, perhaps: try again
                said = shown(f"the queue is not looked after: {error}")
                if said != told:
                    print(said, file=sys.stderr, flush=True)
                told = said
            self._stop.wait(POLL_SECONDS)

    def stop(self) -> None:
        """Ends `run`. A study that runs goes on."""
        self._stop.set()

    def step(self, device: GpuDevice | None) -> None:
        """Takes note of processes that have ended, and starts the next study if the card is free,
        or if the study fits beside those that run."""
        queue = StudyQueue(self.store.engine)
        for entry_id in [id for id, child in self.children.items() if child.poll() is not None]:
            self._record_end(queue, entry_id)
        sweep(queue, self.url)
        if any(queue.entry(entry_id).state == "queued" for entry_id in self.children):
            return  # one that was started has not come to its turn yet
        entry = self._next(queue, device)
        if entry is not None:
            self._start(queue, entry)

    def _next(self, queue: StudyQueue, device: GpuDevice | None) -> QueueEntry | None:
        """The study to start; None if it does not fit beside those that run, or a waiting `run`
        goes first."""
        here, now = platform.node(), datetime.now(UTC)
        entries = queue.entries()
        due = [entry for entry in entries if entry.is_due(now)]
        due = [entry for entry in due if entry.is_detached or entry.host == here]
        if not due or not due[0].is_detached or is_alive(queue, self.url, due[0]):
            return None
        running = running_on(entries, "cpu" if device is None else device.uuid)
        part = self._part(due[0], device) if running else None
        return due[0] if not running or (part and part.fits_beside(running)) else None

    def _part(self, entry: QueueEntry, device: GpuDevice | None) -> CardPart | None:
        """Share of the card that an entry's study takes; None: the whole card."""
        if device is None:
            return None
        if entry.id not in self._parts:
            self._parts[entry.id] = None
            with contextlib.suppress(VramSearchError):  # its own process reports the error
                data = parse_mapping(entry.study_file, entry.study)
                study = validate_study(data, Path.cwd(), entry.study, card_here)
                self._parts[entry.id] = card_part(study, device)
        return self._parts[entry.id]

    def _start(self, queue: StudyQueue, entry: QueueEntry) -> None:
        limits: list[str] = []
        if entry.trials is not None:
            limits += ["--trials", str(entry.trials)]
        hours = entry.hours
        if entry.until is not None:
            left = (entry.until - datetime.now(UTC)).total_seconds() / 3600
            if left <= 0:
                queue.end(entry.id, "finished", "its time was over before it could start")
                return
            hours = left if hours is None else min(left, hours)
        if hours is not None:
            limits += ["--hours", f"{hours:.6f}"]
        if entry.accept_changes:
            limits.append("--accept-changes")
        file = queue_folder(self.url) / f"{entry.id}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(entry.study_file, encoding="utf-8")
        with output_file(self.url, entry.id).open("wb") as output:
            self.children[entry.id] = subprocess.Popen(
                [*self.command, "run", str(file), "--entry", str(entry.id), *limits],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, DATABASE_VARIABLE: self.url, "PYTHONUNBUFFERED": "1"},
                **_own_group(),
            )

    def _record_end(self, queue: StudyQueue, entry_id: int) -> None:
        """Records why a process ended that never came to its turn, for example a missing file."""
        entry, code = queue.entry(entry_id), self.children.pop(entry_id).returncode
        if entry.state != "queued" or entry.attempts or is_alive(queue, self.url, entry):
            return
        said = last_lines(output_file(self.url, entry.id))
        message = _after(said, "error: ") or f"its process ended with code {code}"
        queue.end(entry.id, "failed", message, _after(said, "remedy: "))


def output_file(url: str, entry_id: int) -> Path:
    """The file with the output of an entry's process."""
    folder = queue_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{entry_id}.log"


def last_lines(file: Path, most: int = _OUTPUT_LINES) -> list[str]:
    """The last lines of a file; none if it does not exist."""
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 200 * most))
        return stream.read().decode("utf-8", errors="replace").splitlines()[-most:]


def _after(lines: list[str], start: str) -> str:
    return next((line.removeprefix(start) for line in lines if line.startswith(start)), "")


def _own_group() -> dict[str, Any]:
    """Ctrl-C in the service's terminal must not reach the study."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined,unused-ignore]
    return {"start_new_session": True}
