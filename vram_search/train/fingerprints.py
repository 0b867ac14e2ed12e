"""Fingerprints of what a training process loaded: tokens of all rows, base weights and their
configuration, all by content."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers.utils import cached_file

from vram_search.protocol import LoadJob
from vram_search.train.examples import EncodedExample
from vram_search.units import MIB

_CHUNK_BYTES = 16 * MIB
_THREADS = 8
"""Chunks of the weights that are hashed at once; hashlib lets other threads run."""
_CONFIGS = ("config.json", "generation_config.json")
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")
"""Keys of a configuration that say who wrote it."""


def fingerprints(
    job: LoadJob, train: Iterable[EncodedExample], evaluation: Iterable[EncodedExample]
) -> dict[str, str]:
    """Hashes in hex by name; equal for equal content, wherever the files are."""
    return {"tokens": tokens_fingerprint(train, evaluation), **base_fingerprints(job)}


def base_fingerprints(job: LoadJob) -> dict[str, str]:
    """The hashes of the base model alone."""
    folder = _base_folder(job)
    return {
        "base weights": weights_fingerprint(job, folder),
        "model config": config_fingerprint(folder),
    }


def _base_folder(job: LoadJob) -> Path:
    """The folder of the base model that was loaded; of a hub model the one in the cache."""
    place = Path(job.model_name_or_path)
    if place.is_file():  # the configuration of random weights
        return place.parent
    if place.is_dir():
        return place
    config = cached_file(job.model_name_or_path, _CONFIGS[0], local_files_only=True)
    return Path(str(config)).parent


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


def weights_fingerprint(job: LoadJob, folder: Path) -> str:
    """Covers names, sizes and bytes of the weight files; random weights count by their seed.

    A model's bytes were read a moment ago to load it: they are hashed from main memory if it holds
    them, at about 1 GiB/s for each core.
    """
    digest = hashlib.sha256()
    if job.random_weights:
        digest.update(str(job.seed).encode())
        return digest.hexdigest()[:16]
    files = sorted(folder.glob("*.safetensors"))
    chunks = [
        (file, start)
        for file in files
        for start in range(0, max(1, file.stat().st_size), _CHUNK_BYTES)
    ]
    for file in files:
        digest.update(f"{file.name}:{file.stat().st_size}".encode())
    with ThreadPoolExecutor(_THREADS) as pool:
        for content in pool.map(_chunk_digest, chunks):
            digest.update(content)
    return digest.hexdigest()[:16]


def config_fingerprint(folder: Path) -> str:
    """Covers the values of the model's configuration, and of its settings of generation."""
    digest = hashlib.sha256()
    for name in _CONFIGS:
        file = folder / name
        if file.is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            kept = {key: values[key] for key in values if key not in _NOT_THE_MODEL}
            digest.update(json.dumps([name, kept], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _chunk_digest(chunk: tuple[Path, int]) -> bytes:
    file, start = chunk
    with file.open("rb") as stream:
        stream.seek(start)
        return hashlib.sha256(stream.read(_CHUNK_BYTES)).digest()
