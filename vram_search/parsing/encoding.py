"""Decodes the text files of strangers."""

from __future__ import annotations

import codecs


def decoded(data: bytes) -> str:
    """A text in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    PowerShell's `>` and Notepad write UTF-16.

    Raises:
        UnicodeDecodeError: it is in another encoding.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")
