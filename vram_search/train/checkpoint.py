"""Writes and reads a trial's checkpoint: everything from which a cut-off training goes on.

    FOLDER/step-00000120/    checkpoint.json, state.safetensors, trainer_state.json, best/

A checkpoint is whole or not there: it is written into a folder of its own, flushed to the disk and
then renamed, and the older one is deleted last. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.trainer_callback import TrainerState

from vram_search.protocol import Evaluated, Step, TrialJob
from vram_search.spec.base import Spec
from vram_search.train.training_state import TrainingState

_MANIFEST, _TENSORS, _TRAINER_STATE = "checkpoint.json", "state.safetensors", "trainer_state.json"
_BEST = "best"
_PART = ".part"
_STEP = re.compile(r"step-(\d{8,})")
_NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP)
"""Errors of a file system that has no fsync."""


class Manifest(Spec):
    """The content of checkpoint.json: the state of the trial, and the hashes of the other files."""

    step: int
    identity: dict[str, str]
    """Everything that must be equal for the training to go on, by name (`checkpoint_identity`)."""
    best_loss: float | None
    """The objective of the best evaluation."""
    best_step: int | None
    steps: tuple[Step, ...]
    evaluations: tuple[Evaluated, ...]
    values: dict[str, Any] = Field(default_factory=dict)
    """`TrainingState.values`."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 in hex by path."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and is whole."""

    folder: Path
    manifest: Manifest
    state: TrainingState

    def restore_best_adapter(self, adapter_folder: Path) -> None:
        """Puts the best adapter so far where the trial keeps it; before a first evaluation there
        is none."""
        if (self.folder / _BEST).is_dir():
            shutil.copytree(self.folder / _BEST, adapter_folder, dirs_exist_ok=True)


def checkpoint_identity(loaded: Mapping[str, str], job: TrialJob) -> dict[str, str]:
    """Returns everything that decides the rest of a training, by name.

    Args:
        loaded: hashes, package versions and device of the training process.
    """
    parts = {"hyperparameters", "target_modules", "plan", "training", "eval_cutoff_len", "seed"}
    settings = job.model_dump(
        mode="json", include=parts, exclude={"training": {"checkpoint_every"}}
    )
    return {**loaded, **{name: json.dumps(v, sort_keys=True) for name, v in settings.items()}}


def write_checkpoint(
    folder: Path,
    manifest: Manifest,
    state: TrainingState,
    trainer_state: TrainerState,
    best_adapter: Path,
) -> None:
    """Writes a checkpoint and deletes the older one.

    Args:
        folder: of the trial's checkpoints; made if it is missing.
        manifest: its `files` and `values` are filled in here.
        best_adapter: folder of the best adapter so far; it may not exist yet.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    final = folder / f"step-{manifest.step:08d}"
    part = final.with_name(final.name + _PART)
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        save_file(state.tensors, part / _TENSORS)
        trainer_state.save_to_json(str(part / _TRAINER_STATE))
        if best_adapter.is_dir():
            shutil.copytree(best_adapter, part / _BEST)
        whole = manifest.model_copy(update={"values": state.values, "files": _hashes(part)})
        (part / _MANIFEST).write_text(whole.model_dump_json(), encoding="utf-8")
        _flush(part)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)  # it would keep the disk full
        raise OSError(f"{part} cannot be written: {error}") from error
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)
    _flush_folder(folder)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)


def find_checkpoint(folder: Path, identity: Mapping[str, str]) -> tuple[Checkpoint | None, str]:
    """Returns the newest whole checkpoint of this training, or None and the reason.

    The reason is empty if there is no checkpoint at all.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    newest_first = sorted((f for f in found if _STEP.fullmatch(f.name)), reverse=True)
    reason = ""
    for candidate in newest_first:
        try:
            return _read(candidate, identity), ""
        except _UnusableError as error:
            reason = reason or str(error)
    return None, reason


class _UnusableError(Exception):
    """A checkpoint is damaged, or belongs to another training."""


def _read(folder: Path, identity: Mapping[str, str]) -> Checkpoint:
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise _UnusableError(f"it is damaged: {_MANIFEST} cannot be read") from error
    if manifest.identity != identity:
        names = manifest.identity.keys() | identity.keys()
        differing = sorted(n for n in names if manifest.identity.get(n) != identity.get(n))
        raise _UnusableError(f"it belongs to a training with other {', '.join(differing)}")
    try:
        hashes = _hashes(folder)
        if changed := dict(hashes.items() ^ manifest.files.items()):
            raise _UnusableError(f"it is damaged: {min(changed)} has changed or is missing")
        tensors = load_file(folder / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise _UnusableError(f"it is damaged: {error}") from error
    return Checkpoint(folder, manifest, TrainingState(tensors, manifest.values))


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its path in the folder, without the manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Writes all files of a folder through to the disk, so that they outlive a power loss."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
            continue
        with path.open("rb+") as stream:
            _fsync(stream.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Writes a folder's entries through to the disk; Windows does it by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int) -> None:
    """Flushes an open file or folder. Network shares and FUSE may have no fsync, for folders above
    all: then it is left out, as in PostgreSQL (`fsync_fname_ext`, src/backend/storage/file/fd.c).
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
