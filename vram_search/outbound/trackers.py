"""Passes each finished trial on to experiment trackers, from the record.

Off by default; `trackers:` in config.yaml names them. Each needs its own extra. A process of its
own (`outbound.write_trial`) writes each trial: trackers print, ask for a login and may hang.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vram_search.errors import InputError
from vram_search.outbound.receiver import Receiver, SendError
from vram_search.outbound.settings import TrackerName
from vram_search.outbound.write_trial import ERROR_FILE, TRIAL_FILE, TrackedTrial
from vram_search.report.figures import required_bytes
from vram_search.shown_text import MASK, without_secrets
from vram_search.store import Store
from vram_search.store.events import EventRecord
from vram_search.store.location import StudyFolder, trial_folder

INFEASIBLE = "infeasible"
WRITE_SECONDS = 120.0
"""A tracker that takes longer for one trial is given up."""
_SECRET_VARIABLE = re.compile("KEY|TOKEN|PASSWORD|SECRET")


@dataclass(frozen=True)
class TrackerReceiver:
    """Gives finished trials to one tracker."""

    tracker: TrackerName
    kinds: tuple[str, ...] = ("trial_ended",)

    @property
    def name(self) -> str:
        return f"tracker:{self.tracker}"

    def wants(self, store: Store, event: EventRecord) -> bool:
        return event.data.get("outcome") != INFEASIBLE

    def send(self, store: Store, event: EventRecord) -> None:
        trial = tracked_trial(store, event)
        if trial is not None:
            write_in_a_process(self.tracker, trial)


def write_in_a_process(tracker: str, trial: TrackedTrial) -> None:
    """Writes a trial with `outbound.write_trial`; nothing that it prints is shown.

    Raises:
        SendError: the tracker failed, or did not end in time; secrets are masked.
    """
    with TemporaryDirectory(prefix="vram-search-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / TRIAL_FILE).write_text(json.dumps(asdict(trial)), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "vram_search.outbound.write_trial", tracker, name],
                stdin=subprocess.DEVNULL,  # nobody answers a question
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=WRITE_SECONDS,
                start_new_session=True,  # Ctrl-C is not meant for it
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except subprocess.TimeoutExpired:
            raise SendError(f"it did not end within {WRITE_SECONDS:.0f} s") from None
        error = folder / ERROR_FILE
        if error.exists():
            raise SendError(_masked(error.read_text(encoding="utf-8", errors="replace")))
        if done.returncode:
            raise SendError(f"its process ended with {done.returncode}")


def _masked(text: str) -> str:
    """A tracker's message without the passwords and keys of addresses and of the environment."""
    for name, value in os.environ.items():
        if len(value) >= 4 and _SECRET_VARIABLE.search(name.upper()):
            text = text.replace(value, MASK)
    return without_secrets(text)


def tracked_trial(store: Store, event: EventRecord) -> TrackedTrial | None:
    """Reads the trial of an event; None if its study was deleted."""
    record = store.study(event.study)
    trial = store.trial(record.id, event.trial or 0) if record is not None else None
    if trial is None:
        return None
    steps, evaluations = store.step_losses(trial.id), store.evaluations(trial.id)
    size, _ = required_bytes(trial)
    results = {
        "eval_loss": trial.eval_loss,
        "required_bytes": size,
        "seconds": sum((trial.seconds or {}).values()),
    }
    series = {
        "train/loss": [(s.step, s.loss) for s in steps if s.loss is not None],
        "train/learning_rate": [
            (s.step, s.learning_rate) for s in steps if s.learning_rate is not None
        ],
        "train/grad_norm": [(s.step, s.grad_norm) for s in steps if s.grad_norm is not None],
        "eval/loss": [(e.step, e.eval_loss) for e in evaluations if e.eval_loss is not None],
    }
    return TrackedTrial(
        study=event.study,
        outcome=trial.outcome or "running",
        name=trial_folder(trial.number),
        folder=str(StudyFolder(store.files, event.study).path),
        parameters={name: _plain(value) for name, value in trial.hyperparameters.items()},
        series={name: values for name, values in series.items() if values},
        results={name: float(value) for name, value in results.items() if value is not None},
    )


def tracker_receivers(names: Sequence[TrackerName]) -> list[Receiver]:
    """The trackers of these names.

    Raises:
        InputError: the package of one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise InputError(
                f"trackers: {name} needs the package {_PACKAGES[name]}, which is not installed",
                f'pip install "vram-search[{name}]"',
            )
    return [TrackerReceiver(name) for name in names]


def _plain(value: Any) -> int | float | str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, int | float | str) else str(value)


_PACKAGES: dict[TrackerName, str] = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}
