"""Keeps the measurements of `vram-search calibrate` in the data folder, one file per card."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.estimate.memory.hardware import Hardware
from vram_search.resources import data_folder
from vram_search.spec.card_facts import CardFacts
from vram_search.typed_fields import TypedFields
from vram_search.units import MIB

MOST_BYTES = 2**50
"""More is no card's memory."""
SAME_TOTAL = 0.02
"""Drivers and ECC settings move a card's reported total by so much; a larger kind has more."""

_VENDOR_WORDS = frozenset({"nvidia", "geforce", "tesla", "gpu", "pcie", "generation", "blackwell"})
_PACKAGING = re.compile(r"(sxm|hbm)\d*e?")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One card with its driver and stack; bytes are measured."""

    version: int = 1
    """Version of this file's format: 1."""
    measured_at: str
    """UTC, ISO 8601."""
    card_name: str
    """As NVML gives it."""
    total_bytes: int
    driver: str
    versions: dict[str, str]
    """Versions of torch, its CUDA, transformers, peft, bitsandbytes and similar packages."""
    context_bytes: int
    """Process less torch's reserved bytes after steps on texts of equal length."""
    padded_context_bytes: int
    """The same after a padded batch, which loads the kernels of masked attention too."""
    context_source: str
    """`process`: NVML's figure of the process. `device`: how much the whole device rose, which
    other programs may have changed."""
    cublas_workspace_bytes: int
    cublaslt_workspace_bytes: int
    allocator: str
    """`as expected` if torch's allocator behaves as `memory/allocator.py` simulates; otherwise
    `differs`."""
    measured_over_predicted: float
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

    def as_dict(self) -> dict[str, Any]:
        """The fields as the file holds them."""
        return {**asdict(self), "notes": list(self.notes)}


def parse_calibration(values: object) -> Calibration:
    """Reads the fields of a calibration's file.

    Raises:
        ValueError: the values are no calibration.
        FieldError: a field is missing, unknown or of another kind.
    """
    if not isinstance(values, dict):
        raise ValueError("it is not a mapping")
    read = TypedFields(values, "the calibration")
    unknown = values.keys() - {one.name for one in fields(Calibration)}
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is not a known key")
    return Calibration(
        version=read.size("version", 1, most=1),
        measured_at=read.text("measured_at"),
        card_name=read.text("card_name"),
        total_bytes=read.size("total_bytes", most=MOST_BYTES),
        driver=read.text("driver"),
        versions=dict(read.section("versions") or {}),
        context_bytes=read.size("context_bytes", most=MOST_BYTES),
        padded_context_bytes=read.size("padded_context_bytes", most=MOST_BYTES),
        context_source=read.choice("context_source", ("process", "device")),
        cublas_workspace_bytes=read.size("cublas_workspace_bytes", least=0, most=MOST_BYTES),
        cublaslt_workspace_bytes=read.size("cublaslt_workspace_bytes", least=0, most=MOST_BYTES),
        allocator=read.choice("allocator", ("as expected", "differs")),
        measured_over_predicted=read.number("measured_over_predicted"),
        notes=tuple(read.list_of(str, "notes") or ()),
    )


def hardware_for(card: CardFacts) -> Hardware:
    """Measured figures where the card was calibrated here, else those of its card file.

    Raises:
        InputError: the calibration is damaged.
    """
    of_file = Hardware.of(card)
    calibration = load_calibration(card.label, card.total_bytes)
    if calibration is None:
        return of_file
    return replace(calibration.hardware, prefers_cudnn=of_file.prefers_cudnn)


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
        fresh.write_text(
            json.dumps(calibration.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
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
        return parse_calibration(json.loads(file.read_bytes()))
    except (OSError, ValueError, InputError) as error:
        problem = error.message if isinstance(error, InputError) else error
        raise InputError(
            f"the calibration {file} cannot be used: {problem}",
            "measure again with `vram-search calibrate`, or delete the file",
        ) from None
