"""Where a study's rows are: files, folders, hub names, entries of LLaMA-Factory and Axolotl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vram_search.data.axolotl_entry import axolotl_source
from vram_search.data.conversation import MessageNames
from vram_search.data.dataset_info import info_source
from vram_search.data.files import read_file
from vram_search.data.folder_files import files_of_split
from vram_search.data.forms import RowReader
from vram_search.data.hub import is_saved_folder, read_hub, read_saved
from vram_search.data.source import Source
from vram_search.errors import InputError
from vram_search.spec.dataset import DatasetSpec, Entry, matching_files


def sources_of(dataset: DatasetSpec, *, evaluation: bool) -> list[Source]:
    """Returns the sources of the training or the evaluation rows, in order.

    Raises:
        InputError: an entry is not one that can be read.
    """
    value = dataset.eval if evaluation else dataset.train
    entries: tuple[Entry, ...] = (value,) if isinstance(value, str) else value or ()
    split = "" if evaluation else "train"
    found: list[Source] = []
    for entry in entries:
        if dataset.dataset_dir is not None:
            if not isinstance(entry, str):
                raise InputError(
                    f"dataset_dir {dataset.dataset_dir}: its data sets have names, not {entry!r}"
                )
            names = [name.strip() for name in entry.split(",") if name.strip()]
            found += [info_source(Path(dataset.dataset_dir), name) for name in names]
        elif isinstance(entry, dict):
            found.append(axolotl_source(entry, split))
        else:
            reader = RowReader(dataset.format, dataset.columns, MessageNames.of(dataset.tags))
            found.append(Source(entry, reader, split=split))
    return found


def read_source(source: Source, notes: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """(file or data set, its rows), file by file.

    Args:
        notes: takes a sentence about files of a folder that are left out.

    Raises:
        InputError: one cannot be read.
    """
    location = source.location
    if set(location) & set("*?[") and not Path(location).exists():
        for file in matching_files(location):
            yield str(file), read_file(file)
        return
    path = Path(location)
    if path.is_file():
        yield location, read_file(path)
    elif not path.is_dir():
        yield location, read_hub(location, source.subset, source.split, source.data_files)
    elif is_saved_folder(path):
        yield location, read_saved(path, source.split or "train")
    else:
        for file in _files_in(path, source, notes):
            yield str(file), read_file(file)


def _files_in(folder: Path, source: Source, notes: list[str]) -> list[Path]:
    names = source.data_files
    if names is not None:
        return [folder / name for name in ([names] if isinstance(names, str) else names)]
    if (folder / "dataset_info.json").is_file():
        raise InputError(
            f"{folder}: a folder with LLaMA-Factory's dataset_info.json",
            f"set dataset.dataset_dir to it, and dataset.train to a name in {folder.name}",
        )
    files, others = files_of_split(folder, source.split)
    if source.takes_all_files:
        return sorted([*files, *others])
    if others:
        left = ", ".join(file.relative_to(folder).as_posix() for file in others)
        notes.append(f"{folder.name}: files that are not read: {left}")
    return files
