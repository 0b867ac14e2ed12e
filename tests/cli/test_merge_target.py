"""`merge --force` replaces what `merge` wrote, and deletes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from vram_search.cli.merge import _check_replaceable
from vram_search.errors import InputError


def test_merged_model_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    folder.mkdir()
    _check_replaceable(folder, True, ())
    (folder / "config.json").write_text("{}")
    _check_replaceable(folder, True, ())
    with pytest.raises(InputError, match="exists"):
        _check_replaceable(folder, False, ())


@pytest.mark.parametrize("inside", ["photo.jpg", "config.json/x", ".git/config"])
def test_folder_with_other_things_is_kept(tmp_path: Path, inside: str) -> None:
    file = tmp_path / "home" / inside
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(InputError, match="holds other things"):
        _check_replaceable(tmp_path / "home", True, ())


def test_base_model_is_kept(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds the base model"):
        _check_replaceable(tmp_path / "base", True, (tmp_path / "base",))
