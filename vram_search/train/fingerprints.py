"""Fingerprints of what a training process loaded: the tokens of all rows, and the base weights."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vram_search.protocol import LoadJob
from vram_search.train.examples import EncodedExample

_BLOCK_BYTES = 4096
_BLOCKS = 64
"""Blocks of a weights file that are read, evenly spaced; its start holds names and shapes."""
_HEAD_BYTES = 2**20


def fingerprints(
    job: LoadJob, base: Any, train: Iterable[EncodedExample], evaluation: Iterable[EncodedExample]
) -> dict[str, str]:
    """Hashes in hex by name; equal for equal content, wherever the files are."""
    return {
        "tokens": tokens_fingerprint(train, evaluation),
        "weights": weights_fingerprint(job, base),
    }


def tokens_fingerprint(
    train: Iterable[EncodedExample], evaluation: Iterable[EncodedExample]
) -> str:
    """Covers tokenizer, chat template and rows: the tokens that are learnt and evaluated."""
    digest = hashlib.sha256()
    for part in (train, evaluation):
        for example in part:
            for turn in example.turns:
                for tokens in turn:
                    digest.update(array("q", tokens).tobytes())
                    digest.update(b"\1")
            digest.update(b"\2")
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def weights_fingerprint(job: LoadJob, base: Any) -> str:
    """Covers a folder's weight files by size, header and evenly spaced blocks; a hub model counts
    by its commit, and random weights by their configuration and seed."""
    place = Path(job.model_name_or_path)
    digest = hashlib.sha256()
    if job.random_weights:
        config = place / "config.json" if place.is_dir() else place
        digest.update(config.read_bytes())
        digest.update(str(job.seed).encode())
    elif place.is_dir():
        for file in sorted(place.glob("*.safetensors")):
            digest.update(f"{file.name}:{file.stat().st_size}".encode())
            for block in _blocks(file):
                digest.update(block)
    else:
        commit = getattr(base.config, "_commit_hash", None)
        digest.update(f"{job.model_name_or_path}@{commit}".encode())
    return digest.hexdigest()[:16]


def _blocks(file: Path) -> Iterable[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        yield stream.read(_HEAD_BYTES)
        for position in range(_BLOCKS):
            stream.seek(
                (size - _BLOCK_BYTES) * position // (_BLOCKS - 1) if size > _BLOCK_BYTES else 0
            )
            yield stream.read(_BLOCK_BYTES)
