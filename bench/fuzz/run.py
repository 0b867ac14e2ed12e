"""Runs inputs through a reader and sorts what becomes of them."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.fuzz.mutate import Files, mutate, packed
from bench.fuzz.targets import RefusedError, Target
from vram_search.errors import VramSearchError

Outcome = Literal["ok", "refused", "traceback", "hang"]
HANG_SECONDS = 10


class HangError(BaseException):
    """The reader did not come back in time. No reader catches it."""


@dataclass
class Found:
    """Outcomes of a reader's inputs, and one input for each place of a fault."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[str, Files]] = field(default_factory=dict)
    """By the place of the fault: its traceback and the input."""


def outcome_of(target: Target, files: Files, folder: Path) -> tuple[Outcome, str, str]:
    """Gives one input to a reader.

    Returns:
        The outcome; after a fault its place and its traceback, otherwise empty texts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    try:
        with _deadline():
            target.run(folder)
    except (VramSearchError, RefusedError, OSError):  # `main` turns each into one message
        return "refused", "", ""
    except HangError as error:
        return "hang", _place(error), traceback.format_exc()
    except Exception as error:
        return "traceback", _place(error), traceback.format_exc()
    return "ok", "", ""


def fuzz(target: Target, count: int, seed: int, deadline: float, folder: Path) -> Found:
    """Changes a reader's seeds again and again."""
    choose, found = random.Random(f"{seed} {target.name}"), Found()
    pool = list(target.seeds)
    for number in range(count):
        if time.monotonic() > deadline:
            break
        files = target.seeds[number] if number < len(target.seeds) else choose.choice(pool)
        if number >= len(target.seeds):
            files = mutate(choose, files, pool)
        outcome, place, said = outcome_of(target, files, folder)
        found.counts[outcome] += 1
        if place and place not in found.faults:
            found.faults[place] = (said, files)
        if outcome == "ok" and choose.random() < 0.05:
            pool = [*pool[-300:], files]  # changed, and still valid: a seed of further ones
    return found


def keep(corpus: Path, target: str, files: Files) -> Path:
    """Writes an input to the corpus and returns its file."""
    text = packed(files)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = corpus / target / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def _place(error: BaseException) -> str:
    """Kind of the fault and the innermost line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "vram_search/" in frame.filename.replace("\\", "/")]
    last = (ours or list(frames))[-1]
    name = last.filename.replace("\\", "/").rpartition("vram_search/")[2]
    return f"{type(error).__name__} at {name}:{last.lineno}"


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raises HangError in the block after HANG_SECONDS."""

    def stop(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
