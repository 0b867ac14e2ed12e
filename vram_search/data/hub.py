"""Data sets of the Hugging Face hub, and folders that `datasets` saved; an optional extra."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vram_search.data.unpack import EXTRA
from vram_search.errors import InputError, first_line

EVALUATION_SPLITS = ("validation", "valid", "dev", "eval", "test", "test_sft")
"""Names of a hub data set's evaluation rows, the first that is there."""


def is_saved_folder(folder: Path) -> bool:
    """True if `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote it."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def read_saved(folder: Path, split: str) -> list[Any]:
    """Rows of a folder that `datasets` saved.

    Raises:
        InputError: the package is missing, or the folder cannot be read.
    """
    with _explained(str(folder)):
        from datasets import load_from_disk

        loaded = load_from_disk(str(folder))
        return _rows(str(folder), loaded, split)


def read_hub(
    name: str, subset: str | None, split: str, data_files: str | list[str] | None = None
) -> list[Any]:
    """Rows of a hub data set; the package runs no code of it (datasets 4 and later).

    Args:
        split: as the package writes it, `train[:1000]` too; empty takes an evaluation split.

    Raises:
        InputError: the package is missing, or the data set cannot be had.
    """
    with _explained(name):
        from datasets import load_dataset

        # Its warnings repeat each try with the hub's address, which may hold a password; what
        # fails in the end is an error.
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        loaded = load_dataset(name, subset, data_files=data_files, split=split or None)
        return _rows(name, loaded, split)


def _rows(name: str, loaded: Any, split: str) -> list[Any]:
    if isinstance(loaded, Mapping):
        wanted = (split,) if split else EVALUATION_SPLITS
        found = next((key for key in wanted if key in loaded), None)
        if found is None:
            raise InputError(
                f"{name} has no split {' or '.join(wanted)}; it has {', '.join(loaded)}",
                "name it: dataset.train=[{path: NAME, split: SPLIT}]",
            )
        loaded = loaded[found]
    for column, feature in loaded.features.items():
        if hasattr(feature, "decode") and feature.decode:  # images and sounds stay packed
            loaded = loaded.cast_column(column, type(feature)(decode=False))
    return list(loaded)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns an error of the package or the network into one sentence."""
    try:
        yield
    except ImportError:
        raise InputError(
            f"{name}: no such file; hub data sets and saved folders need the package datasets",
            EXTRA,
        ) from None
    except (ConnectionError, FileNotFoundError) as error:
        # datasets: DatasetNotFoundError, OfflineModeIsEnabled; requests: its own ConnectionError
        raise InputError(
            f"{name}: neither a file here nor a data set that can be loaded now "
            f"({first_line(error)})",
            "go online once, or give a downloaded file or a folder of `save_to_disk`",
        ) from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: cannot be read ({first_line(error)})") from None
