"""Versions read from folders' names are those that importlib.metadata reads from the files."""

from __future__ import annotations

import importlib.metadata

from vram_search.installed import installed_version


def test_versions_are_those_of_the_packages_metadata() -> None:
    packages = {one.name: one.version for one in importlib.metadata.distributions()}
    read = {name: installed_version(name) for name in packages}
    assert len(packages) > 20
    assert read == {name: importlib.metadata.version(name) for name in packages}


def test_absent_package_has_no_version() -> None:
    assert installed_version("no-such-package") == ""
