"""Weights and tokens are recognised by their content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vram_search.train.examples import EncodedExample
from vram_search.train.fingerprints import tokens_fingerprint, weights_fingerprint


def job(folder: Path) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(model_name_or_path=str(folder), random_weights=False, seed=1)


def test_weights_count_by_content(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray(os.urandom(2_000_000))
    file.write_bytes(content)
    before = weights_fingerprint(job(tmp_path), None)
    os.utime(file, (1, 1))
    assert weights_fingerprint(job(tmp_path), None) == before
    content[-1] ^= 1
    file.write_bytes(content)
    assert weights_fingerprint(job(tmp_path), None) != before


def test_tokens_count_by_content_and_split() -> None:
    first = EncodedExample(turns=(((1, 2), (3,)),))
    other = EncodedExample(turns=(((1,), (2, 3)),))
    known = tokens_fingerprint([first], [other])
    assert tokens_fingerprint([first], [other]) == known
    assert tokens_fingerprint([other], [first]) != known
    assert tokens_fingerprint([first, other], []) != known
    assert tokens_fingerprint([first], [first]) != known
