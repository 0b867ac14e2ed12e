"""Keeps the measurements of `vram-search calibrate` in the data folder, one file per card."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from vram_search.errors import InputError
from vram_search.estimate.memory.hardware import Hardware
from vram_search.resources import data_folder
from vram_search.spec.base import PositiveFloat, Spec
from vram_search.spec.card import Card
from vram_search.units import MIB

SAME_TOTAL = 0.02
"""Drivers and ECC settings move a card's reported total by so much; a larger kind has more."""

_VENDOR_WORDS = frozenset({"nvidia", "geforce", "tesla", "gpu", "pcie", "generation", "blackwell"})
_PACKAGING = re.compile(r"(sxm|hbm)\d*e?")

Measured = Annotated[int, Field(strict=True, ge=0)]


class Calibration(Spec):
    """One card with its driver and stack; bytes are measured."""

    version: Literal[1] = 1
    """Version of this file's format."""
    measured_at: str
    """UTC, ISO 8601."""
    card_name: Annotated[str, Field(min_length=1)]
    """As NVML gives it."""
    total_bytes: Annotated[Measured, Field(gt=0)]
    driver: str
    versions: dict[str, str]
    """Versions of torch, its CUDA, transformers, peft, bitsandbytes and similar packages."""
    context_bytes: Annotated[Measured, Field(gt=0)]
    """Process less torch's reserved bytes after steps on texts of equal length."""
    padded_context_bytes: Annotated[Measured, Field(gt=0)]
    """The same after a padded batch, which loads the kernels of masked attention too."""
    context_source: Literal["process", "device"]
    """NVML's figure of the process, or how much the whole device rose: then others may disturb."""
    cublas_workspace_bytes: Measured
    cublaslt_workspace_bytes: Measured
    allocator: Literal["as expected", "differs"]
    """True if torch's allocator behaves as `estimate.allocator` simulates."""
    measured_over_predicted: PositiveFloat
    """Allocated bytes of the short training against their prediction with these constants."""
    notes: tuple[str, ...] = ()
    """Remarks about these figures."""

    @property
    def hardware(self) -> Hardware:
        return Hardware(
            context_bytes=self.context_bytes,
            cublas_workspace_bytes=self.cublas_workspace_bytes,
            cublaslt_workspace_bytes=self.cublaslt_workspace_bytes,
        )


def hardware_for(card: Card) -> Hardware:
    """Measured figures where the card was calibrated here, else those of its card file.

    Raises:
        InputError: the calibration is damaged.
    """
    calibration = load_calibration(card.label, card.total_bytes)
    return Hardware.of(card) if calibration is None else calibration.hardware


def load_calibration(name: str, total_bytes: int) -> Calibration | None:
    """The newest calibration of this kind of card, whatever its driver and stack.

    Cheap when asked again: the folder is read again only when a file in it was replaced.

    Args:
        name: NVML's, a card file's title or its slug.

    Raises:
        InputError: the file is damaged.
    """
    folder = calibration_folder()
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return None
    return _newest(folder, changed, name, total_bytes)


def save_calibration(calibration: Calibration) -> Path:
    """Writes the card's file, in place of an older one; a reader sees the old one or the new one.

    Raises:
        OSError: the data folder cannot be written.
    """
    folder = calibration_folder()
    folder.mkdir(parents=True, exist_ok=True)
    total = round(calibration.total_bytes / MIB)
    file = folder / f"{'-'.join(card_words(calibration.card_name))}-{total}mib.json"
    fresh = file.with_suffix(".new")
    try:
        fresh.write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(fresh, file)  # noqa: PTH105, the name of what is atomic
    finally:
        fresh.unlink(missing_ok=True)
    _newest.cache_clear()
    return file


def calibration_folder() -> Path:
    return data_folder() / "calibration"


def card_words(name: str) -> tuple[str, ...]:
    """The words that tell cards apart: no vendor, memory size, memory kind or slot.

    >>> card_words("NVIDIA A100-SXM4-80GB") == card_words("a100-80gb")
    True
    """
    without_size = re.sub(r"\b\d+ ?gb\b", "", name.lower())
    words = re.findall(r"[a-z0-9]+", without_size)
    return tuple(w for w in words if w not in _VENDOR_WORDS and not _PACKAGING.fullmatch(w))


@lru_cache(maxsize=64)
def _newest(folder: Path, changed: int, name: str, total_bytes: int) -> Calibration | None:
    """`changed` is the folder's time: another one makes this read again."""
    words = "-".join(card_words(name))
    files = [file for file in folder.glob("*.json") if _is_of(file, words, total_bytes)]
    return _read(max(files, key=lambda file: file.stat().st_mtime_ns)) if files else None


def _is_of(file: Path, words: str, total_bytes: int) -> bool:
    match = re.fullmatch(r"(.+)-(\d+)mib", file.stem)
    if match is None or match[1] != words:
        return False
    return abs(int(match[2]) * MIB / total_bytes - 1) <= SAME_TOTAL


def _read(file: Path) -> Calibration:
    try:
        return Calibration.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f"the calibration {file} cannot be used: {first}",
            "measure again with `vram-search calibrate`, or delete the file",
        ) from None
