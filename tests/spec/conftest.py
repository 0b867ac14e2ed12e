"""Studies as text or with replaced parts, and the faults that loading them reports."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vram_search.errors import Fault, FaultyFileError
from vram_search.spec import StudySpec, load_study

REST_OF_STUDY = """
study: written
model: {weights: random, shape: smollm2-135m}
dataset: {train: rows.jsonl}
card: rtx-4060-8gb
"""


@pytest.fixture
def load_text(tmp_path: Path) -> Callable[..., StudySpec]:
    """Loads YAML as it is written; `load_text("seed: 1")` adds what every study needs."""

    def load(text: str, *overrides: str, rest: str = REST_OF_STUDY) -> StudySpec:
        (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
        file = tmp_path / "written.yaml"
        file.write_text(f"{textwrap.dedent(text)}\n{rest}", encoding="utf-8")
        return load_study(file, overrides)

    return load


@pytest.fixture
def faults_of(load_text: Callable[..., StudySpec]) -> Callable[..., dict[str, Fault]]:
    """The faults of a text, by YAML path."""

    def faults(text: str, *overrides: str, **keywords: Any) -> dict[str, Fault]:
        with pytest.raises(FaultyFileError) as caught:
            load_text(text, *overrides, **keywords)
        found = {fault.path: fault for fault in caught.value.faults}
        assert len(found) == len(caught.value.faults), "one fault per path"
        return found

    return faults
