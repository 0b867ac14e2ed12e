"""One place where rows are, and how its rows are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from vram_search.data.forms import RowReader


@dataclass(frozen=True)
class Source:
    """A file, folder, pattern or hub name.

    Attributes:
        split: split of a hub data set or a saved one; empty: an evaluation split.
        subset: a hub data set's configuration.
        data_files: files of a folder or a hub data set.
        limit: use the first rows alone.
        takes_all_files: read every data file of a folder, as LLaMA-Factory does.
        notes: sentences about settings that are not followed.
    """

    location: str
    reader: RowReader = field(default_factory=RowReader)
    split: str = "train"
    subset: str | None = None
    data_files: str | list[str] | None = None
    limit: int | None = None
    takes_all_files: bool = False
    notes: tuple[str, ...] = ()
