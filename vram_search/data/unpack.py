"""Unpacks a data file: gzip, bzip2, xz, Zstandard, or a ZIP archive of one data file.

The first bytes decide, not the name: a download may have been unpacked, or packed, on its way.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from vram_search.errors import InputError, reason_of
from vram_search.spec.dataset import PACKED, has_known_suffix

EXTRA = 'pip install "vram-search[data]"'


def unpacked(path: Path) -> tuple[bytes, str]:
    """Contents of a file, and its name in small letters without a packed file's ending.

    Raises:
        InputError: it cannot be read, is damaged, or is an archive of several data files.
    """
    name = path.name.lower()
    try:
        data = path.read_bytes()
        if name.endswith(".zip"):
            return _only_member(path, data)
        unpack = next((one for start, one in _UNPACK.items() if data.startswith(start)), None)
        data = unpack(data) if unpack is not None else data
    except ImportError:
        raise InputError(f"{path}: reading a .zst file needs pyarrow", EXTRA) from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
    for ending in PACKED:
        name = name.removesuffix(ending)
    return data, name


def _unpack_zstandard(data: bytes) -> bytes:
    import pyarrow

    with pyarrow.input_stream(pyarrow.BufferReader(data), compression="zstd") as stream:
        return bytes(stream.read())


_UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
    b"\x28\xb5\x2f\xfd": _unpack_zstandard,
}
"""First bytes of a packed file."""


def _only_member(path: Path, data: bytes) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [
            name
            for name in archive.namelist()
            if has_known_suffix(name.lower()) and not name.startswith("__MACOSX/")
        ]
        if len(names) != 1:
            raise InputError(
                f"{path}: the archive holds {len(names)} data files",
                "unpack it, and give the file or folder inside",
            )
        try:
            return archive.read(names[0]), PurePosixPath(names[0]).name.lower()
        except (RuntimeError, NotImplementedError) as error:  # a password, or an unknown packing
            raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
