"""Reads and writes safetensors files tensor by tensor, so that memory holds one tensor at a time.

The library's `save_file` takes all tensors of a file at once, which is 5 GB for a usual shard. The
format is a JSON header with offsets, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from vram_search.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ALIGNMENT = 8
_NAMES = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file to write.

    Attributes:
        load: returns the tensor with this dtype and shape; called when it is written.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]

    @property
    def size_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def model_files(name_or_path: str) -> list[Path]:
    """Returns a model's safetensors files, of a folder or of the hub's cache.

    Raises:
        InputError: there are none.
    """
    index = cached_file(name_or_path, INDEX, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        names = get_checkpoint_shard_files(name_or_path, index)[0]
        return sorted(Path(name) for name in names)
    single = cached_file(name_or_path, SINGLE, _raise_exceptions_for_missing_entries=False)
    if single is None:
        raise InputError(
            f"{name_or_path} holds no {SINGLE}",
            "the base model must be there in safetensors; pickled weights are not read",
        )
    return [Path(single)]


def stored_tensors(file: Path) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Returns name, dtype and shape of each tensor in a file, in the file's order.

    Raises:
        InputError: a dtype is not known here.
    """
    found = []
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (it is no mapping)
            part = opened.get_slice(name)
            dtype = _DTYPES.get(part.get_dtype())
            if dtype is None:
                raise InputError(
                    f"{file}: {name} has the dtype {part.get_dtype()}, which cannot be merged",
                    "the base model must be in 16 or 32 bits",
                )
            found.append((name, dtype, tuple(part.get_shape())))
    return found


def read_tensor(file: Path, name: str) -> torch.Tensor:
    """Reads one tensor; the file is mapped, and closed again."""
    with safe_open(file, framework="pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
    return tensor


def write_tensors(file: Path, entries: Sequence[TensorEntry]) -> None:
    """Writes a file; each tensor is loaded when its turn comes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.size_bytes
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            tensor = entry.load()
            assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape), entry.name
            stream.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_index(folder: Path, weight_map: dict[str, str], total_bytes: int) -> None:
    """Writes the index of a model that has several files."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True), encoding="utf-8")
