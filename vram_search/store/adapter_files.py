"""Checks the files of a kept adapter without torch, so that a damaged one is refused at once.

The values in the weights are not compared with anything: a file whose bytes changed and whose size
is right is read as it is.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from vram_search.errors import InputError
from vram_search.parsing.json_text import parse_json
from vram_search.parsing.parse_error import ParseError
from vram_search.typed_fields import FieldError, TypedFields

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode")
_LENGTH_BYTES = 8


def check_adapter(folder: Path, remedy: str) -> None:
    """Checks that a folder holds a whole LoRA adapter as peft writes it.

    Raises:
        InputError: a file is missing, cut off or holds something else; `remedy` is the advice.
    """
    for file, fault_of in ((folder / CONFIG, _config_fault), (folder / WEIGHTS, _weights_fault)):
        try:
            fault = fault_of(file)
        except OSError as error:
            fault = "is missing" if isinstance(error, FileNotFoundError) else f"{error.strerror}"
        if fault:
            raise InputError(f"the adapter is damaged: {file}: {fault}", remedy)


def _config_fault(file: Path) -> str:
    """Returns what is wrong with peft's settings; empty if nothing is."""
    try:
        values = parse_json(file.read_bytes())
    except ParseError as error:
        return f"is no JSON: {error.message}"
    if not isinstance(values, dict):
        return "is no JSON object"
    fields = TypedFields(values, file.name)
    try:
        fields.choice("peft_type", ("LORA",))
        fields.size("r")
        fields.number_or_none("lora_alpha")
        fields.number("lora_dropout", most=1)
        for name in _FLAGS:
            fields.flag(name)
        for name in ("rank_pattern", "alpha_pattern"):
            fields.section(name)
        if not isinstance(values.get("target_modules"), str):
            fields.list_of(str, "target_modules")
    except FieldError as error:
        return f"{error.field} {error.problem}"
    return ""


def _weights_fault(file: Path) -> str:
    """Returns what is wrong with the header and size of a safetensors file; empty if nothing is.

    Source: https://github.com/huggingface/safetensors#format.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(_LENGTH_BYTES)
        length = struct.unpack("<Q", start)[0] if len(start) == _LENGTH_BYTES else size
        if _LENGTH_BYTES + length > size:
            return f"is cut off at {size} bytes"
        try:
            header = parse_json(opened.read(length))
        except ParseError:
            return "has no header of safetensors"
    if not isinstance(header, dict):
        return "has no header of safetensors"
    ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
    if not any("lora_" in name for name in header):
        return "holds no LoRA weights"
    if None in ends:
        return "has no header of safetensors"
    whole = _LENGTH_BYTES + length + max(end for end in ends if end is not None)
    return "" if size == whole else f"has {size} bytes instead of {whole}"


def _end(entry: Any) -> int | None:
    """Returns where a tensor's bytes end; None if the header does not say it."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    is_pair = isinstance(offsets, list) and len(offsets) == 2
    return offsets[1] if is_pair and type(offsets[1]) is int else None  # type: ignore[index]
