"""A folder that `merge` or `card` writes appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from vram_search.cli.new_folder import new_folder
from vram_search.errors import InputError


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def older(folder: Path) -> Path:
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def test_folder_appears_at_the_end_and_replaces_an_older_one(tmp_path: Path) -> None:
    target = older(tmp_path / "m")
    with new_folder(target) as part:
        (part / "new.txt").write_text("new")
        assert names(target) == {"old.txt"}
    assert names(target) == {"new.txt"} and names(tmp_path) == {"m"}


@pytest.mark.parametrize("fault", [InputError("no"), KeyboardInterrupt(), OSError(28, "full")])
@pytest.mark.parametrize("is_there", [True, False])
def test_fault_leaves_what_was_there(tmp_path: Path, fault: BaseException, is_there: bool) -> None:
    target = older(tmp_path / "m") if is_there else tmp_path / "m"
    with pytest.raises((InputError, KeyboardInterrupt)), new_folder(target) as part:
        (part / "config.json").write_text("half")
        raise fault
    assert names(tmp_path) == ({"m"} if is_there else set())
    assert not is_there or names(target) == {"old.txt"}


def test_leftovers_of_a_killed_process_are_removed_and_its_older_folder_returns(
    tmp_path: Path,
) -> None:
    target = tmp_path / "m"
    part = tmp_path / ".m.vram-search-part"
    part.mkdir()
    (part / "half.bin").write_text("half")
    older(tmp_path / ".m.vram-search-old")
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        assert folder == part and names(folder) == set()
        raise KeyboardInterrupt
    assert names(tmp_path) == {"m"} and names(target) == {"old.txt"}


def test_folder_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".m.vram-search-lock"):
        (tmp_path / ".m.vram-search-part").mkdir()
        with (
            pytest.raises(InputError, match=r"another process is writing"),
            new_folder(tmp_path / "m"),
        ):
            pass
        assert (tmp_path / ".m.vram-search-part").is_dir()


def test_place_that_cannot_hold_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(InputError, match=r"file.m cannot be written: a file has the name"),
        new_folder(tmp_path / "file" / "m"),
    ):
        pass


def test_error_about_another_file_names_that_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="elsewhere"), new_folder(tmp_path / "m"):
        raise OSError(2, "no such file", "/elsewhere/log")
