"""Weights and tokens are recognised by their content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from vram_search.train.examples import EncodedExample
from vram_search.train.fingerprints import (
    config_fingerprint,
    tokens_fingerprint,
    weights_fingerprint,
)


def job(folder: Path) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(model_name_or_path=str(folder), random_weights=False, seed=1)


@pytest.mark.parametrize("place", [0, 1_234_567, 17_000_000, -1])
def test_weights_count_by_all_of_their_bytes(tmp_path: Path, place: int) -> None:
    file = tmp_path / "model.safetensors"
    content = bytearray(18_000_000)
    file.write_bytes(content)
    before = weights_fingerprint(job(tmp_path), tmp_path)
    os.utime(file, (1, 1))
    assert weights_fingerprint(job(tmp_path), tmp_path) == before
    content[place] ^= 1
    file.write_bytes(content)
    assert weights_fingerprint(job(tmp_path), tmp_path) != before


def test_configuration_counts_by_its_values(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"rope_theta": 1e4, "transformers_version": "5.1"}')
    before = config_fingerprint(tmp_path)
    file.write_text('{ "transformers_version": "5.2", "rope_theta": 10000.0 }')
    assert config_fingerprint(tmp_path) == before
    file.write_text('{"rope_theta": 5e5}')
    assert config_fingerprint(tmp_path) != before
    file.write_text('{"rope_theta": 1e4}')
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 1.3}')
    assert config_fingerprint(tmp_path) != before


def test_tokens_count_by_content_and_split() -> None:
    first = EncodedExample(turns=(((1, 2), (3,)),))
    other = EncodedExample(turns=(((1,), (2, 3)),))
    known = tokens_fingerprint([first], [other])
    assert tokens_fingerprint([first], [other]) == known
    assert tokens_fingerprint([other], [first]) != known
    assert tokens_fingerprint([first, other], []) != known
    assert tokens_fingerprint([first], [first]) != known
